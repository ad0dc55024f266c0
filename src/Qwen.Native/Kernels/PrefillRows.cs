using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>The rows of a warp of <see cref="PrefillAttentionKernel"/>: what they may see, and their softmax as it goes on from tile to tile of positions.</summary>
/// <remarks>
/// Lane 4g + t has rows g and g + 8 of each sixteen, and columns 2t and 2t + 1 of each eight: C fragments of mma, [eight columns][4], which products of
/// warp groups have too.
/// </remarks>
/// <param name="k">The kernel.</param>
/// <param name="shape">Its shape.</param>
/// <param name="sixteens">Sixteens of rows.</param>
/// <param name="first">The first of them in the block.</param>
internal sealed class PrefillRows(PtxBuilder k, AttentionShape shape, int sixteens, U32 first)
{
    // Of row [sixteen][g or g + 8].
    private readonly U32[][] _positions = [.. Enumerable.Range(0, sixteens).Select(_ => (U32[])[k.Variable<U32>(), k.Variable<U32>()])];
    private readonly F32[][] _maxima = Variables(k, sixteens, 2), _weights = Variables(k, sixteens, 2);

    /// <summary>Weighted sums of values, as fragments of each sixteen.</summary>
    public F32[][][] Sums { get; } = [.. Enumerable.Range(0, sixteens).Select(_ => Variables(k, shape.HeadDim / 8, 4))];

    /// <summary>Registers.</summary>
    public static F32[][] Variables(PtxBuilder k, int rows, int columns) =>
        [.. Enumerable.Range(0, rows).Select(_ => Enumerable.Range(0, columns).Select(_ => k.Variable<F32>()).ToArray())];

    /// <summary>Nothing is seen yet.</summary>
    public void Reset(PrefillBlock block)
    {
        for (int m = 0; m < sixteens; m++)
        {
            for (int h = 0; h < 2; h++)
                k.Set(_positions[m][h], block.FirstPosition + ((block.FirstRow + Row(m, h)) / shape.Group));
        }

        foreach (F32 maximum in _maxima.SelectMany(m => m))
            k.Set(maximum, float.NegativeInfinity);
        foreach (F32 sum in _weights.SelectMany(w => w).Concat(Sums.SelectMany(s => s).SelectMany(s => s)))
            k.Set(sum, 0f);
    }

    /// <summary>Takes away the scores of what rows must not see: behind their own positions and, if there is a window, before it.</summary>
    /// <param name="scores">Fragments of each sixteen.</param>
    /// <param name="position">Of the first column.</param>
    public void Mask(F32[][][] scores, U32 position)
    {
        for (int n = 0; n < scores[0].Length; n++)
        {
            for (int c = 0; c < 2; c++)
            {
                U32 at = position + ((k.Lane & 3) * 2) + ((8 * n) + c);
                for (int m = 0; m < sixteens; m++)
                {
                    for (int h = 0; h < 2; h++)
                    {
                        Pred hidden = at > _positions[m][h];
                        if (shape.SlidingWindow > 0)
                            hidden |= at + shape.SlidingWindow <= _positions[m][h];
                        F32 score = scores[m][n][(2 * h) + c];
                        k.Set(score, k.Select<F32>(hidden, float.NegativeInfinity, score));
                    }
                }
            }
        }
    }

    /// <summary>Scores of a sixteen become weights 2^(scale (score - maximum)).</summary>
    /// <returns>What sums from before must be multiplied by for maxima that have risen: of rows g and g + 8.</returns>
    public F32[] Weigh(F32[][] scores, int m)
    {
        F32[] shrink = new F32[2];
        for (int h = 0; h < 2; h++)
        {
            F32 maximum = _maxima[m][h];
            foreach (F32[] fragment in scores)
                maximum = k.Max(maximum, k.Max(fragment[2 * h], fragment[(2 * h) + 1]));
            maximum = k.MaxLanes(maximum, 4);
            // A row whose window begins behind this tile has seen nothing yet.
            F32 reference = shape.SlidingWindow == 0 ? maximum : k.Select<F32>(maximum.Is(float.NegativeInfinity), 0f, maximum);
            F32 offset = reference * -shape.ScoreScale;
            shrink[h] = k.Exp2(k.Fma(_maxima[m][h], shape.ScoreScale, offset));
            k.Set(_maxima[m][h], maximum);
            k.MultiplyInto(_weights[m][h], shrink[h]);
            foreach (F32[] fragment in scores)
            {
                for (int c = 2 * h; c < (2 * h) + 2; c++)
                {
                    k.Set(fragment[c], k.Exp2(k.Fma(fragment[c], shape.ScoreScale, offset)));
                    k.AddInto(_weights[m][h], fragment[c]);
                }
            }
        }

        return shrink;
    }

    /// <summary>Multiplies the sums of a sixteen, unless no maximum of the warp's rows has risen.</summary>
    public void Shrink(F32[] by, int m)
    {
        using (k.If(k.Any((by[0] < 1f) | (by[1] < 1f)), uniform: true))
        {
            foreach (F32[] fragment in Sums[m])
            {
                for (int c = 0; c < 4; c++)
                    k.MultiplyInto(fragment[c], by[c / 2]);
            }
        }
    }

    /// <summary>Weights of sixteen positions as the A fragment of a product: C fragments are A fragments as they lie.</summary>
    public U32[] Operand(F32[][] weights, int step)
    {
        return [Packed(weights[2 * step], 0), Packed(weights[2 * step], 2), Packed(weights[(2 * step) + 1], 0), Packed(weights[(2 * step) + 1], 2)];

        U32 Packed(F32[] fragment, int c) => k.Pack(shape.Operands, fragment[c], fragment[c + 1], saturate: false).AsU32;
    }

    /// <summary>Stores the sums over the sums of weights.</summary>
    public void Store(PrefillBlock block)
    {
        for (int m = 0; m < sixteens; m++)
        {
            for (int h = 0; h < 2; h++)
            {
                U32 row = block.FirstRow + Row(m, h);
                F32 inverse = k.Reciprocal(k.SumLanes(_weights[m][h], 4));
                Global to = block.ResultAt(row);
                for (int n = 0; n < Sums[m].Length; n++)
                {
                    F32[] sums = Sums[m][n];
                    k.Store(to + (8 * n * sizeof(ushort)), k.Pack(shape.Type, sums[2 * h] * inverse, sums[(2 * h) + 1] * inverse).AsU32, row < block.Rows);
                }
            }
        }
    }

    // A lane's rows in the block.
    private U32 Row(int m, int h) => first + (k.Lane >> 2) + ((16 * m) + (8 * h));
}
