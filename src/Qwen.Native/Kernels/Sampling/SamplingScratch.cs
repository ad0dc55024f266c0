using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels.Sampling;

/// <summary>What the blocks of a row leave each other while its token is drawn, in global memory. Zeros at first; sums and counts are zeros again after.</summary>
internal sealed class SamplingScratch
{
    /// <summary>Bins of tokens by weight: see <see cref="DrawnRow"/>.</summary>
    public const int Bins = 2048;

    /// <summary>Tokens that can be looked at one by one.</summary>
    public const int Room = 4096;

    private const int CountsAt = Bins * sizeof(ulong), ListAt = CountsAt + (Bins * sizeof(uint)), BoundsAt = ListAt + (Room * sizeof(ulong)), BoundsBytes = 64;

    /// <summary>Bytes of a row.</summary>
    public const int Bytes = BoundsAt + BoundsBytes;

    public SamplingScratch(PtxBuilder k, Global scratch)
    {
        Global row = scratch.At(k.BlockX, Bytes);
        (Masses, Counts, List, Bounds) = (row, row + CountsAt, row + ListAt, row + BoundsAt);
        (Total, Rank, Listed, Ticket) = (Bounds + 32, Bounds + 40, Bounds + 44, Bounds + 48);
    }

    /// <summary>U64 [Bins]: the masses of bins, then of all bins before each. Where nothing is filtered, of neighbouring tokens.</summary>
    public Global Masses { get; }

    /// <summary>U32 [Bins]: tokens of bins, then of all bins before each.</summary>
    public Global Counts { get; }

    /// <summary>U64 [Room]: keys of the tokens that a choice may fall on.</summary>
    public Global List { get; }

    /// <summary>U32 [3][2]: the first and last bin that the drawn token, the last of the nucleus, and the last of the k likeliest can be in.</summary>
    public Global Bounds { get; }

    /// <summary>U64: the mass of all tokens that pass min-p.</summary>
    public Global Total { get; }

    /// <summary>U32: how many are likelier than the last of the k likeliest.</summary>
    public Global Rank { get; }

    /// <summary>U32: tokens that belong in the list, whether it has room or not.</summary>
    public Global Listed { get; }

    /// <summary>U32: blocks that are done.</summary>
    public Global Ticket { get; }
}
