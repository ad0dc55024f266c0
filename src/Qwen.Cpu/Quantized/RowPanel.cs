using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu.Quantized;

/// <summary>y[t, r] = dot(W[r, :], x[t, :]) for several tokens: sixteen rows at a time, unpacked by chunks, with rows in the lanes.</summary>
/// <remarks>
/// Rows lie in a vector's lanes, so nothing is summed across lanes: a tile of 16 rows and 4 tokens is an <see cref="IPanelTile"/>'s products alone.
/// A chunk of 16 sub-blocks stays in L1 while all tokens of a block are multiplied by it. Sub-block b is added to sum b mod 16 of its row and token,
/// which is lane b mod 16 of <see cref="RowDot"/>; at the end the sixteen sums fold as its lanes do: the bits are the same.
/// </remarks>
internal static unsafe class RowPanel
{
    /// <summary>Rows of a panel: the lanes of an accumulator.</summary>
    public const int Rows = Lanes.Count;

    private const int TileTokens = 4;
    private const int BlockTokens = 128; // their sums are 128 KB: with their activations, half of a usual L2
    private const int TokenSums = Lanes.Count * Rows;
    private const int TailBytes = Rows * RowBlocks<Q2_K>.TailBytes;

    /// <summary>Bytes of scratch memory.</summary>
    public const long ScratchBytes = Panel.Bytes + TailBytes + (BlockTokens * TokenSums * sizeof(float));

    /// <summary>Whether this machine has the byte products that make panels worth their while.</summary>
    public static bool IsSupported => Avx2.IsSupported;

    /// <summary>Multiplies the rows [from, to), a multiple of <see cref="Rows"/>.</summary>
    public static void Multiply<TFormat, TTile>(in WeightMatrix w, int from, int to, in QuantizedActivations x, int tokens, in Output output, byte* scratch)
        where TFormat : struct, IQuantizedFormat
        where TTile : struct, IPanelTile
    {
        for (int token = 0; token < tokens; token += BlockTokens)
        {
            for (int row = from; row < to; row += Rows)
                MultiplyBlock<TFormat, TTile>(w, row, x, token, Math.Min(BlockTokens, tokens - token), output.At(row - from), scratch);
        }
    }

    /// <summary>Sixteen rows times up to <see cref="BlockTokens"/> tokens.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)] // hot in its first call, as all of these
    private static void MultiplyBlock<TFormat, TTile>(in WeightMatrix w, int row, in QuantizedActivations x, int token, int tokens, in Output output, byte* scratch)
        where TFormat : struct, IQuantizedFormat
        where TTile : struct, IPanelTile
    {
        byte* rows = w.Data + (row * w.RowBytes), end = w.Data + (w.Rows * w.RowBytes), next = rows + (Rows * w.RowBytes);
        byte* tails = scratch + Panel.Bytes;
        float* sums = (float*)(tails + TailBytes);
        Panel panel = new(scratch);
        int subBlocks = w.Columns / TFormat.SubBlock;
        for (int b = 0; b < subBlocks; b += Lanes.Count)
        {
            int count = Math.Min(Lanes.Count, subBlocks - b);
            byte* chunk = rows + ((long)(b / Lanes.Count) * RowBlocks<TFormat>.ChunkBytes);
            long stride = w.RowBytes;
            if (end - chunk < ((Rows - 1) * stride) + RowBlocks<TFormat>.ChunkBytes)
            {
                // A whole chunk of the last row would leave the matrix: the rows' last blocks are read from a copy.
                for (int r = 0; r < Rows; r++)
                    Unsafe.CopyBlockUnaligned(tails + (r * RowBlocks<TFormat>.TailBytes), chunk + (r * stride), (uint)Math.Min(RowBlocks<TFormat>.ChunkBytes, end - chunk - (r * stride)));
                chunk = tails;
                stride = RowBlocks<TFormat>.TailBytes;
            }

            // The rows after these lie behind them. They are asked for in equal parts while this chunk is unpacked and each tile is multiplied:
            // all at once, the processor would have more misses under way than it has room for, and wait.
            long bytes = Rows * (long)count * RowBlocks<TFormat>.ChunkBytes / Lanes.Count;
            int tiles = (tokens + TileTokens - 1) / TileTokens, step = (int)Math.Min(IPanelTile.AheadBytes, bytes / ((tiles + 1) * count));
            long whileUnpacking = bytes - ((long)tiles * count * step);
            PanelUnpacker.Codes<TFormat, TTile>(chunk, stride, ((count * TFormat.SubBlock) + 31) / 32, panel, next, whileUnpacking);
            PanelUnpacker.Scales<TFormat>(chunk, stride, panel);
            next += whileUnpacking;
            for (int t = 0; t < tokens; t += TileTokens, next += count * step)
                TTile.Multiply<TFormat>(panel, count, x, token + t, b, sums + (t * TokenSums), next, step);
        }

        for (int t = 0; t < tokens; t++)
        {
            float* y = output.Token(token + t);
            Vector512<float> dots = Fold(sums + ((t & ~(TileTokens - 1)) * TokenSums) + ((t & (TileTokens - 1)) * Rows), Math.Min(subBlocks, Lanes.Count));
            (output.Accumulate ? Vector512.Load(y) + dots : dots).Store(y);
        }
    }

    /// <summary>The sixteen sums of a token, in the order of a fold; those past <paramref name="count"/> hold nothing and are zero.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static Vector512<float> Fold(float* sums, int count)
    {
        Vector512<float> s = Four(0) + Four(2), t = Four(1) + Four(3);
        return s + t;

        Vector512<float> Four(int i) => (Sum(i) + Sum(i + 8)) + (Sum(i + 4) + Sum(i + 12));

        Vector512<float> Sum(int i) => i < count ? Vector512.Load(sums + (i * TileTokens * Rows)) : default;
    }

    /// <summary>Asks L2 for activations of the next tile: walking a record in strides, the processor does not look ahead by itself.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Prefetch(byte* x, long next)
    {
        Sse.Prefetch1(x);
        Sse.Prefetch1(x + next);
        Sse.Prefetch1(x + (2 * next));
        Sse.Prefetch1(x + (3 * next));
    }
}
