using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels.Sampling;

/// <summary>The row of logits that a block helps to draw a token of: how it is drawn, and what its logits weigh.</summary>
/// <remarks>
/// A weight is e^((logit - max) / temperature), in [0, 1]. A mass is a weight times 2^40 as an integer: sums do not depend on the order in which
/// threads add, so the same logits give the same token. Tokens order by their logits, equal ones by their ids.
/// </remarks>
internal sealed class DrawnRow
{
    private const int MassBits = 40;

    // Bins are equally wide in the logarithm of weights, down to 2^-24; the last one has all below. A nucleus hardly ever ends there, and where it does all the row is searched.
    private const float BinsPerOctave = (SamplingScratch.Bins - 1) / 24f;

    private readonly PtxBuilder _k;
    private readonly F32 _scale, _max, _minP;

    /// <summary>Reads how the row is drawn. Its blocks end here where its token is decided: the likeliest is asked for, or a logit is not finite.</summary>
    public DrawnRow(PtxBuilder k, int vocabulary, int? stride)
    {
        _k = k;
        Global logits = k.Pointer("logits"), parameters = k.Pointer("parameters").At(k.BlockX, SamplingRow.Bytes), tokens = k.Pointer("tokens");
        Scratch = new SamplingScratch(k, k.Pointer("scratch"));
        Row = new LogitRow(k, logits, vocabulary, stride);
        Token = tokens.At(k.BlockX, sizeof(int));
        k.WaitForPreviousKernel();
        U32[] words = k.LoadVector<U32>(parameters, 4);
        F32 temperature = k.AsFloat(words[0]);
        U64[] fractions = k.LoadVector<U64>(parameters + 16, 2);
        U32 likeliest = k.Load<U32>(Token);
        k.ReturnIf(temperature.Is(0f) | (likeliest >= 0x80000000u));
        _minP = k.AsFloat(words[1]);
        TopK = k.Select(words[2] < vocabulary, words[2], 0);
        (TopP, Uniform) = (fractions[0], fractions[1]);
        _max = k.Load<F32>(Row.Start.At(likeliest, sizeof(float)));
        _scale = k.Min(k.Divide(MathF.Log2(MathF.E), temperature), 1e30f);
        (HasTopK, HasTopP) = (TopK.IsNot(0), TopP < ulong.MaxValue);
        IsFiltered = HasTopK | HasTopP | (_minP > 0f);
    }

    /// <summary>The logits.</summary>
    public LogitRow Row { get; }

    /// <summary>What the row's blocks leave each other.</summary>
    public SamplingScratch Scratch { get; }

    /// <summary>Where the token goes; the likeliest one is there.</summary>
    public Global Token { get; }

    /// <summary>Only the k likeliest; 0 for all.</summary>
    public U32 TopK { get; }

    /// <summary>Only the likeliest whose probabilities reach this sum, times 2^64.</summary>
    public U64 TopP { get; }

    /// <summary>The random number, times 2^64.</summary>
    public U64 Uniform { get; }

    public Pred HasTopK { get; }

    public Pred HasTopP { get; }

    /// <summary>Some tokens may be out. Then the sum that the random number is a fraction of runs by falling weight, else by rising id.</summary>
    public Pred IsFiltered { get; }

    public U64 Mass(F32 logit) => MassOf(Weight(logit));

    /// <summary>A token's mass and bin, and whether it passes min-p. One that weighs nothing doesn't.</summary>
    public (U64 Mass, U32 Bin, Pred Passes) Place(F32 logit)
    {
        F32 exponent = (logit - _max) * _scale, weight = _k.Exp2(exponent);
        U32 bin = _k.Min(_k.RoundToInt(exponent * -BinsPerOctave).AsU32, SamplingScratch.Bins - 1);
        return (MassOf(weight), bin, (weight >= _minP) & (weight > 0f));
    }

    /// <summary>The threshold that a nucleus of a mass is reached past.</summary>
    public U64 Nucleus(U64 mass) => _k.Max(_k.MultiplyHigh(mass, TopP), 1ul) - 1ul;

    /// <summary>All threads but those of the row's last block end here.</summary>
    /// <param name="shared">Shared memory for a word.</param>
    public void OnlyLastBlock(Shared shared)
    {
        _k.FenceDevice();
        _k.Barrier();
        using (_k.If(_k.Thread.Is(0)))
            _k.Store(shared, _k.AtomicIncrement(Scratch.Ticket, _k.GridY - 1));
        _k.Barrier();
        _k.ReturnIf(_k.Load<U32>(shared).IsNot(_k.GridY - 1));
        _k.FenceDevice();
    }

    private F32 Weight(F32 logit) => _k.Exp2((logit - _max) * _scale);

    private U64 MassOf(F32 weight) => _k.TruncateToU64(weight * MathF.ScaleB(1, MassBits));
}
