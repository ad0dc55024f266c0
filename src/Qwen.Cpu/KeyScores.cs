using System.Runtime.CompilerServices;

namespace Qwen.Cpu;

/// <summary>Dot products of a few queries with keys: the first half of attention when decoding.</summary>
internal static unsafe class KeyScores
{
    private const int TileRows = 4;

    /// <summary>scores[r, j] = dot(queries[r], keys[j]) in the order of <see cref="FloatRows"/>.</summary>
    /// <remarks>
    /// Tiles of 4 keys x 4 queries rather than <see cref="FloatTile"/>'s 4 x 5: a group of 7 heads is two of them with one row to spare, in
    /// place of a full one and a half empty one; and heads are so short that what a tile does besides its loop counts.
    /// </remarks>
    /// <param name="keys">Keys.</param>
    /// <param name="queries">Queries.</param>
    /// <param name="width">Elements of a key, a multiple of 16.</param>
    /// <param name="scores">Overwritten.</param>
    public static void Compute<TLanes, TElement>(in FloatWeights keys, in FloatVectors queries, int width, in FloatOutput scores)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        for (int j = 0; j < keys.Count; j += FloatTile.Rows)
        {
            FloatWeights four = keys.Slice(j, FloatTile.Rows);
            int rows = FloatTile.Vectors<TLanes>() == 1 || queries.Count == 1 ? 1 : TileRows;
            for (int r = 0; r < queries.Count; r += rows)
            {
                if (rows == 1)
                    FloatTile.Multiply<TLanes, TElement>(four, queries.Slice(r, 1), width, scores.At(r, j));
                else
                    FourKeysFourQueries<TLanes, TElement>(four, queries.Slice(r, rows), width, scores.At(r, j));
            }
        }
    }

    /// <remarks>No call before the last sum is folded, see <see cref="FloatTile"/>. Missing keys and queries repeat the last and are not stored.</remarks>
    [SkipLocalsInit]
    private static void FourKeysFourQueries<TLanes, TElement>(in FloatWeights keys, in FloatVectors queries, int width, in FloatOutput scores)
        where TLanes : unmanaged, ILanes<TLanes>
        where TElement : struct, IFloatElement
    {
        byte* k0 = keys.Data;
        byte* k1 = k0 + (Math.Min(1, keys.Count - 1) * keys.Stride);
        byte* k2 = k0 + (Math.Min(2, keys.Count - 1) * keys.Stride);
        byte* k3 = k0 + (Math.Min(3, keys.Count - 1) * keys.Stride);
        float* q0 = queries.Data;
        float* q1 = q0 + (Math.Min(1, queries.Count - 1) * queries.Stride);
        float* q2 = q0 + (Math.Min(2, queries.Count - 1) * queries.Stride);
        float* q3 = q0 + (Math.Min(3, queries.Count - 1) * queries.Stride);
        FourLanes<TLanes> s0 = default, s1 = default, s2 = default, s3 = default;
        for (nint i = 0; i < width; i += 16)
        {
            nint b = i * TElement.Bytes;
            TLanes a0 = TElement.Load<TLanes>(k0 + b), a1 = TElement.Load<TLanes>(k1 + b);
            TLanes a2 = TElement.Load<TLanes>(k2 + b), a3 = TElement.Load<TLanes>(k3 + b);
            s0.MultiplyAdd(a0, a1, a2, a3, TLanes.Load(q0 + i));
            s1.MultiplyAdd(a0, a1, a2, a3, TLanes.Load(q1 + i));
            s2.MultiplyAdd(a0, a1, a2, a3, TLanes.Load(q2 + i));
            s3.MultiplyAdd(a0, a1, a2, a3, TLanes.Load(q3 + i));
        }

        scores.Store(0, s0.Fold(), keys.Count);
        if (queries.Count > 1)
            scores.Store(1, s1.Fold(), keys.Count);
        if (queries.Count > 2)
            scores.Store(2, s2.Fold(), keys.Count);
        if (queries.Count > 3)
            scores.Store(3, s3.Fold(), keys.Count);
    }
}
