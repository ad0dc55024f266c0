using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>q . R(p) b for the queries of a group and the positions p of a tile: what scores lack whose keys are cached without their bias b.</summary>
/// <remarks>
/// With A = q[i] b[i] + q[i'] b[i'] and B = q[i'] b[i] - q[i] b[i'] for a pair (i, i' = i + headDim / 2), it is the sum over pairs of
/// A cos(p w) + B sin(p w) (see the CPU's KeyBias). A and B, kept in shared memory, are turned to the tile's first position with one row of the rotations;
/// then they meet the same cosines and sines in every tile, which is a matrix product. A bias can be hundreds of times what a token adds, so
/// that 16 bits are too few: both sides are split into an F16 and the F16 of what is left (22 bits), and three products are summed. A and B are
/// held 64 times smaller, so that they don't overflow. Lane 4g + t has query g and a quarter of the pairs, so that loads are 16 bytes wide.
/// </remarks>
internal sealed class KeyBiasScores
{
    private const float Shrink = 1f / 64;

    private readonly PtxBuilder _k;
    private readonly DecodeArguments _arguments;
    private readonly AttentionShape _shape;
    private readonly int _positions, _pairs, _quarter;
    private readonly Shared _projected; // (A, B)[query][pair], F32
    private readonly Shared _high, _low; // F16 (cos, sin)[position][pair]
    private readonly F32 _toStart;

    /// <summary>Fills the table of cosines and sines. All threads; a barrier must follow.</summary>
    public KeyBiasScores(PtxBuilder k, DecodeArguments arguments, AttentionShape shape, int positions)
    {
        (_k, _arguments, _shape, _positions, _pairs) = (k, arguments, shape, positions, shape.HeadDim / 2);
        _quarter = _pairs / 4;
        _projected = k.AllocateShared(QueryRowBytes * (shape.Group > 8 ? 16 : 8));
        _high = k.AllocateShared(positions * PositionBytes);
        _low = k.AllocateShared(positions * PositionBytes);
        using (k.For(k.Thread, positions * _pairs, k.Threads, out U32 index))
        {
            U32 position = index / _pairs, pair = index % _pairs;
            F32[] turn = k.LoadVector<F32>(arguments.Rotations.At(index, 2 * sizeof(float)), 2, CacheHint.ReadOnly);
            (Half2 high, Half2 low) = Split(turn[0], turn[1]);
            U32 at = (position * PositionBytes) + ((pair / _quarter) * QuarterBytes(sizeof(uint))) + ((pair % _quarter) * sizeof(uint));
            k.Store(_high + at, high.AsU32);
            k.Store(_low + at, low.AsU32);
        }

        // The rotations have YaRN's magnitude in them, and so would both factors: its inverse takes it off one.
        _toStart = k.Divide(Shrink, k.Load<F32>(arguments.Rotations, CacheHint.ReadOnly));
    }

    // Padded by 16 bytes a quarter, so that the eight lanes that are served at once meet different banks.
    private int PositionBytes => 4 * QuarterBytes(sizeof(uint));

    private int QueryRowBytes => 4 * QuarterBytes(2 * sizeof(float));

    /// <summary>Computes A and B of a group of queries. All threads, between barriers.</summary>
    /// <param name="queries">The first query of the group, as operands.</param>
    /// <param name="rowBytes">To the next.</param>
    /// <param name="head">The key and value head.</param>
    public void Project(Shared queries, int rowBytes, U32 head)
    {
        Global bias = _arguments.KeyBias.At(head, _shape.HeadDim * sizeof(float));
        using (_k.For(_k.Thread, _shape.Group * _pairs, _k.Threads, out U32 index))
        {
            U32 query = index / _pairs, pair = index % _pairs;
            Shared q = queries.At(query, rowBytes).At(pair, sizeof(ushort));
            Global b = bias.At(pair, sizeof(float));
            F32 first = _k.LoadElements(_shape.Operands, q, 1)[0], second = _k.LoadElements(_shape.Operands, q + (_pairs * sizeof(ushort)), 1)[0];
            F32 biasFirst = _k.Load<F32>(b, CacheHint.ReadOnly), biasSecond = _k.Load<F32>(b + (_pairs * sizeof(float)), CacheHint.ReadOnly);
            F32 a = (first * biasFirst) + (second * biasSecond), turned = (second * biasFirst) - (first * biasSecond);
            U32 at = (query * QueryRowBytes) + ((pair / _quarter) * QuarterBytes(2 * sizeof(float))) + ((pair % _quarter) * (2 * sizeof(float)));
            _k.StoreVector<F32>(_projected + at, [a, turned]);
        }
    }

    /// <summary>Scores, as C fragments of [16 queries, 8 positions] for each eighth of the tile; 64 times too small.</summary>
    /// <param name="position">The tile's first.</param>
    public F32[][] Compute(U32 position)
    {
        F32[][] sums = [.. Enumerable.Range(0, _positions / 8).Select(_ => Enumerable.Range(0, 4).Select(_ => _k.Variable<F32>(0f)).ToArray())];
        U32 query = _k.Lane >> 2, quarter = _k.Lane & 3;
        // Rows past the group's queries are never looked at, but must have been written.
        Shared rows = _projected + (_k.Min(query, _shape.Group - 1) * QueryRowBytes) + (quarter * QuarterBytes(2 * sizeof(float)));
        Shared rowsBelow = _shape.Group > 8 ? _projected + (_k.Min(query + 8, _shape.Group - 1) * QueryRowBytes) + (quarter * QuarterBytes(2 * sizeof(float))) : default;
        Shared table = _high + (query * PositionBytes) + (quarter * QuarterBytes(sizeof(uint))); // the B operand's column is a position
        int toLow = _low.Offset - _high.Offset;
        Global start = _arguments.Rotations.At(position, _pairs * 2 * sizeof(float)).At(quarter, _quarter * 2 * sizeof(float));
        U32 zero = _k.Variable<U32>(0);
        for (int step = 0; step < _quarter; step += 2)
        {
            F32[] turn = [.. _k.LoadVector<F32>(start + (step * 2 * sizeof(float)), 4, CacheHint.ReadOnly).Select(x => x * _toStart)];
            (U32[] high, U32[] low) = ([zero, zero, zero, zero], [zero, zero, zero, zero]);
            Turned(rows, 0);
            if (_shape.Group > 8)
                Turned(rowsBelow, 1);
            for (int n = 0; n < sums.Length; n++)
            {
                U32[] cosines = _k.LoadVector<U32>(table + ((8 * n * PositionBytes) + (step * sizeof(uint))), 2);
                U32[] rest = _k.LoadVector<U32>(table + (toLow + (8 * n * PositionBytes) + (step * sizeof(uint))), 2);
                _k.Mma(ElementType.F16, sums[n], high, cosines);
                _k.Mma(ElementType.F16, sums[n], high, rest);
                _k.Mma(ElementType.F16, sums[n], low, cosines);
            }

            void Turned(Shared row, int register)
            {
                F32[] ab = _k.LoadVector<F32>(row + (step * 2 * sizeof(float)), 4);
                for (int pair = 0; pair < 2; pair++)
                {
                    (F32 a, F32 b, F32 cos, F32 sin) = (ab[2 * pair], ab[(2 * pair) + 1], turn[2 * pair], turn[(2 * pair) + 1]);
                    (Half2 upper, Half2 lower) = Split(_k.Fma(a, cos, b * sin), _k.Fma(b, cos, -(a * sin)));
                    (high[register + (2 * pair)], low[register + (2 * pair)]) = (upper.AsU32, lower.AsU32);
                }
            }
        }

        return sums;
    }

    /// <summary>Gives a score its size back and adds it.</summary>
    public F32 AddTo(F32 score, F32 biasScore) => _k.Fma(biasScore, 1 / Shrink, score);

    private int QuarterBytes(int perPair) => (_quarter * perPair) + 16;

    private (Half2 High, Half2 Low) Split(F32 first, F32 second)
    {
        Half2 high = _k.Pack(ElementType.F16, first, second);
        (F32 highFirst, F32 highSecond) = _k.Unpack(high);
        return (high, _k.Pack(ElementType.F16, first - highFirst, second - highSecond));
    }
}
