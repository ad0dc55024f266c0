using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>The queries of one sequence in a step: rows FirstToken .. of the query matrix, at consecutive positions.</summary>
public readonly unsafe struct AttentionSequence
{
    /// <summary>First row.</summary>
    public int FirstToken { get; init; }

    /// <summary>Rows.</summary>
    public int Tokens { get; init; }

    /// <summary>Position of the first row; the cache holds all positions up to the last row's.</summary>
    public int FirstPosition { get; init; }

    /// <summary>Block numbers: position p lies in block Blocks[p / BlockSize].</summary>
    public int* Blocks { get; init; }
}

/// <summary>
/// Causal grouped-query attention over a paged cache with an online softmax (Milakov and Gimelshein, 2018; FlashAttention, 2022).
/// </summary>
/// <remarks>
/// The order, which makes a token's bits depend on its query, its position and the cache alone: positions are cut in chunks of
/// <see cref="Chunk"/> counted from 0. In a chunk: scores (16 lanes over the head, folded, times the scale), their maximum, e^(score - max)
/// (summed in 16 lanes by position, folded), and the weighted values added by position. Chunks merge in rising order.
/// A piece of work is up to <see cref="TileTokens"/> tokens of a sequence and one key head: a chunk is widened to F32 once for all of
/// them and for all query heads of the group.
/// </remarks>
public static unsafe class PagedAttention
{
    /// <summary>Positions that share a softmax before they are merged.</summary>
    public const int Chunk = 128;

    /// <summary>Tokens of a sequence that share the widened keys and values.</summary>
    private const int TileTokens = 16;

    /// <summary>Scratch for each thread.</summary>
    public static long ScratchBytes(int queryHeads, int kvHeads, int headDim)
    {
        long rows = (long)TileTokens * (queryHeads / kvHeads);
        long floats = (2L * Chunk * headDim) + Chunk + headDim + (2 * rows);
        return (floats * sizeof(float) + 63) & ~63L;
    }

    /// <summary>Attends, over all threads.</summary>
    /// <param name="pool">The threads.</param>
    /// <param name="layer">Keys and values.</param>
    /// <param name="sequences">The step's sequences.</param>
    /// <param name="queries">[tokens, queryHeads * HeadDim] with <paramref name="queryStride"/> floats from row to row.</param>
    /// <param name="queryStride">Floats from row to row.</param>
    /// <param name="queryHeads">A multiple of the layer's heads.</param>
    /// <param name="scale">Factor on the scores: 1 / sqrt(HeadDim).</param>
    /// <param name="window">Keys a query sees, its own included; 0 for all.</param>
    /// <param name="output">[tokens, queryHeads * HeadDim].</param>
    /// <param name="outputStride">Floats from row to row.</param>
    /// <param name="scratch"><see cref="ScratchBytes"/> for each thread, one after the other, 64-byte aligned.</param>
    public static void Run(
        WorkerPool pool, in KvLayer layer, ReadOnlySpan<AttentionSequence> sequences, float* queries, long queryStride, int queryHeads, float scale, int window,
        float* output, long outputStride, byte* scratch)
    {
        int tiles = 0;
        foreach (AttentionSequence sequence in sequences)
            tiles += Tiles(sequence);
        fixed (AttentionSequence* first = sequences)
        {
            long perWorker = ScratchBytes(queryHeads, layer.Heads, layer.HeadDim);
            var job = new Job(layer, first, sequences.Length, queries, queryStride, queryHeads / layer.Heads, scale, window, output, outputStride, (float*)scratch, perWorker / sizeof(float));
            pool.Run(ref job, tiles * layer.Heads);
        }
    }

    private static int Tiles(in AttentionSequence sequence) => (sequence.Tokens + TileTokens - 1) / TileTokens;

    private readonly struct Job(
        KvLayer layer, AttentionSequence* sequences, int sequenceCount, float* queries, long queryStride, int group, float scale, int window,
        float* output, long outputStride, float* scratch, long scratchPerWorker) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            for (int item = from; item < to; item++)
            {
                // The last tiles of a prompt are the longest: hand them out first.
                int head = item % layer.Heads, tile = item / layer.Heads, s = sequenceCount - 1;
                while (tile >= Tiles(sequences[s]))
                    tile -= Tiles(sequences[s--]);
                int last = sequences[s].Tokens - (tile * TileTokens);
                Attend(sequences[s], Math.Max(last - TileTokens, 0), last, head, scratch + (worker * scratchPerWorker));
            }
        }

        /// <summary>Tokens [from, to) of a sequence, all query heads of one key head.</summary>
        private void Attend(in AttentionSequence sequence, int from, int to, int head, float* work)
        {
            int headDim = layer.HeadDim, rows = (to - from) * group;
            float* keys = work, values = keys + (Chunk * headDim), scores = values + (Chunk * headDim);
            float* partial = scores + Chunk, maxima = partial + headDim, sums = maxima + rows;
            int firstPosition = sequence.FirstPosition + from, lastPosition = sequence.FirstPosition + to - 1;
            int firstKey = window == 0 ? 0 : Math.Max(firstPosition - window + 1, 0);
            // The running maximum and sum of each row are in the scratch, its running weighted values in the output itself.
            for (int start = firstKey / Chunk * Chunk; start <= lastPosition; start += Chunk)
            {
                int end = Math.Min(start + Chunk, lastPosition + 1);
                Widen(layer.Keys, sequence.Blocks, head, start, end, keys);
                Widen(layer.Values, sequence.Blocks, head, start, end, values);
                for (int row = 0; row < rows; row++)
                {
                    int token = from + (row / group), position = sequence.FirstPosition + token;
                    int begin = window == 0 ? start : Math.Max(start, position - window + 1), stop = Math.Min(end, position + 1);
                    if (begin >= stop)
                        continue;
                    long column = ((long)head * group + (row % group)) * headDim;
                    float* q = queries + ((sequence.FirstToken + token) * queryStride) + column;
                    float* y = output + ((sequence.FirstToken + token) * outputStride) + column;
                    bool isFirst = start <= (window == 0 ? 0 : Math.Max(position - window + 1, 0));
                    Merge(q, keys, values, begin - start, stop - start, scores, partial, y, maxima + row, sums + row, isFirst);
                }
            }

            for (int row = 0; row < rows; row++)
            {
                float* y = output + ((sequence.FirstToken + from + (row / group)) * outputStride) + (((long)head * group + (row % group)) * headDim);
                float inverse = 1 / sums[row];
                for (int i = 0; i < headDim; i++)
                    y[i] *= inverse;
            }
        }

        private void Widen(byte* rows, int* blocks, int head, int start, int end, float* destination)
        {
            for (int position = start; position < end;)
            {
                int slot = position % layer.BlockSize, count = Math.Min(layer.BlockSize - slot, end - position);
                layer.Read(rows, blocks[position / layer.BlockSize], head, slot, slot + count, destination + ((long)(position - start) * layer.HeadDim));
                position += count;
            }
        }

        /// <summary>Softmax over positions [begin, stop) of a chunk, merged into the running maximum, sum and weighted values.</summary>
        [SkipLocalsInit]
        private void Merge(float* q, float* keys, float* values, int begin, int stop, float* scores, float* partial, float* y, float* maximum, float* sum, bool isFirst)
        {
            int headDim = layer.HeadDim;
            float max = float.NegativeInfinity;
            for (int p = begin; p < stop; p++)
            {
                float score = Dot(q, keys + ((long)p * headDim), headDim) * scale;
                scores[p] = score;
                max = MathF.Max(max, score);
            }

            float total = Exponentials(scores, begin, stop, max);
            WeightedSum(scores, values, begin, stop, headDim, partial);

            if (isFirst)
            {
                *maximum = max;
                *sum = total;
                Unsafe.CopyBlockUnaligned(y, partial, (uint)headDim * sizeof(float));
                return;
            }

            float merged = MathF.Max(*maximum, max), old = Exp(*maximum - merged), now = Exp(max - merged);
            *maximum = merged;
            *sum = MathF.FusedMultiplyAdd(*sum, old, total * now);
            for (int i = 0; i < headDim; i += 8)
                Vector256.FusedMultiplyAdd(Vector256.Load(y + i), Vector256.Create(old), Vector256.Load(partial + i) * now).Store(y + i);
        }

        /// <summary>scores[p] = e^(scores[p] - max), and their sum: lane p % 16 in rising order, folded.</summary>
        private static float Exponentials(float* scores, int begin, int stop, float max)
        {
            Vector512<float> lanes = default;
            for (int p = begin & ~15; p < stop; p += Lanes.Count)
            {
                // Lanes outside [begin, stop) hold leftovers: they count as e^-infinity.
                Vector512<int> position = Vector512.Create(p) + Vector512<int>.Indices;
                Vector512<int> inside = Vector512.GreaterThanOrEqual(position, Vector512.Create(begin)) & Vector512.LessThan(position, Vector512.Create(stop));
                Vector512<float> e = Exponential.Of(Vector512.Load(scores + p) - Vector512.Create(max));
                e = Vector512.ConditionalSelect(inside.AsSingle(), e, Vector512<float>.Zero);
                e.Store(scores + p);
                lanes += e;
            }

            return Lanes.Fold(lanes);
        }

        /// <summary>y[i] = sum over positions, in rising order, of weight[p] * values[p, i].</summary>
        private static void WeightedSum(float* weights, float* values, int begin, int stop, int headDim, float* y)
        {
            int i = 0;
            for (; i <= headDim - 64; i += 64)
            {
                Vector512<float> a0 = default, a1 = default, a2 = default, a3 = default;
                for (int p = begin; p < stop; p++)
                {
                    Vector512<float> w = Vector512.Create(weights[p]);
                    float* v = values + ((long)p * headDim) + i;
                    a0 = Vector512.FusedMultiplyAdd(w, Vector512.Load(v), a0);
                    a1 = Vector512.FusedMultiplyAdd(w, Vector512.Load(v + 16), a1);
                    a2 = Vector512.FusedMultiplyAdd(w, Vector512.Load(v + 32), a2);
                    a3 = Vector512.FusedMultiplyAdd(w, Vector512.Load(v + 48), a3);
                }

                a0.Store(y + i);
                a1.Store(y + i + 16);
                a2.Store(y + i + 32);
                a3.Store(y + i + 48);
            }

            for (; i < headDim; i += 8)
            {
                Vector256<float> a = default;
                for (int p = begin; p < stop; p++)
                    a = Vector256.FusedMultiplyAdd(Vector256.Create(weights[p]), Vector256.Load(values + ((long)p * headDim) + i), a);
                a.Store(y + i);
            }
        }

        private static float Dot(float* a, float* b, int count)
        {
            Vector512<float> lanes = default;
            int i = 0;
            for (; i <= count - Lanes.Count; i += Lanes.Count)
                lanes = Vector512.FusedMultiplyAdd(Vector512.Load(a + i), Vector512.Load(b + i), lanes);
            if (i < count)
                lanes = Vector512.FusedMultiplyAdd(Lanes.LoadPartial(a + i, count - i), Lanes.LoadPartial(b + i, count - i), lanes);
            return Lanes.Fold(lanes);
        }

        private static float Exp(float x) => Exponential.Of(Vector512.CreateScalar(x)).ToScalar();
    }
}
