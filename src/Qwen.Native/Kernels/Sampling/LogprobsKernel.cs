using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels.Sampling;

/// <summary>Natural log-probabilities of the network's own distribution: of the chosen token, and of the likeliest ones, likeliest first, ties by id.</summary>
/// <remarks>
/// A block a row. Each thread keeps its own likeliest token; the likeliest of those is the block's, and only the thread that gave it looks for its next.
/// </remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="vocabulary">Logits of a row.</param>
/// <param name="most">Tokens beside the chosen one.</param>
/// <param name="stride">Values from one row to the next; null for no more than the vocabulary.</param>
public sealed class LogprobsKernel(KernelCache cache, int vocabulary, int most, int? stride = null) : Kernel(cache, Build(cache.Target, vocabulary, most, stride))
{
    /// <summary>The kernel for a vocabulary.</summary>
    public static PtxKernel Build(PtxTarget target, int vocabulary, int most, int? stride = null)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(most);
        ArgumentOutOfRangeException.ThrowIfLessThan(vocabulary, Math.Max(most, 1));
        var k = new PtxBuilder(target, $"logprobs_{vocabulary}_{stride ?? vocabulary}_{most}", threads: 512);
        Global logits = k.Pointer("logits"), tokens = k.Pointer("tokens"), chosen = k.Pointer("chosen"), topTokens = k.Pointer("top_tokens"), top = k.Pointer("top");
        Shared scratch = k.AllocateShared(k.Warps * sizeof(ulong)), sums = k.AllocateShared(k.Warps * sizeof(float));
        var row = new LogitRow(k, logits, vocabulary, stride);
        k.WaitForPreviousKernel();
        U64 mine = row.Best();
        F32 max = row.LogitOf(row.BestOfBlock(mine, scratch)), sum = k.Variable<F32>(0f);
        row.Scan((logit, _) => k.AddInto(sum, k.Exp2((logit - max) * MathF.Log2(MathF.E))));
        F32 logSum = k.Log2(k.SumBlock(sum, sums)) * MathF.Log(2);

        Pred isFirst = k.Thread.Is(0);
        U32 token = k.Load<U32>(tokens.At(k.BlockX, sizeof(int)));
        Pred isToken = isFirst & (token < vocabulary);
        k.Store(chosen.At(k.BlockX, sizeof(float)), (k.Load<F32>(row.Start.At(token, sizeof(float)), when: isToken) - max) - logSum, isToken);
        using (k.For(0, most, out U32 i))
        {
            k.Barrier(); // the scratch memory is free again
            U64 best = row.BestOfBlock(mine, scratch);
            U32 place = (k.BlockX * most) + i;
            k.Store(topTokens.At(place, sizeof(int)), row.TokenOf(best), isFirst);
            k.Store(top.At(place, sizeof(float)), (row.LogitOf(best) - max) - logSum, isFirst);
            using (k.If(mine.Is(best)))
                k.Set(mine, row.Best(below: best));
        }

        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="logits">F32 [rows, stride], as the network gave them.</param>
    /// <param name="tokens">S32 [rows], chosen; negative for none.</param>
    /// <param name="chosen">F32 [rows]: their log-probabilities.</param>
    /// <param name="topTokens">S32 [rows, most].</param>
    /// <param name="top">F32 [rows, most]: their log-probabilities.</param>
    /// <param name="rows">Rows.</param>
    public void Launch(IDeviceStream stream, DevicePointer logits, DevicePointer tokens, DevicePointer chosen, DevicePointer topTokens, DevicePointer top, int rows) =>
        Launch(stream, rows, [Argument.Of(logits), Argument.Of(tokens), Argument.Of(chosen), Argument.Of(topTokens), Argument.Of(top)], overlapPrevious: true);
}
