namespace Qwen.Cpu;

/// <summary>The key bias of a layer, which its quantized keys are stored without, and the rotations that give it back to the scores.</summary>
/// <remarks>
/// Qwen2's key projections have biases whose norm is hundreds of times that of what a token adds; a quantized key would be all bias.
/// As rotation is linear, R(Wx + b) = R(Wx) + R(b): the cache holds R(Wx), and a query q at a key of position p lacks q . R(b), which is
/// the sum over pairs i of A[i] cos(p w[i]) + B[i] sin(p w[i]) with A = q[a] b[a] + q[b] b[b] and B = q[b] b[a] - q[a] b[b]. Turned
/// once to the start of a chunk, A and B meet the same small table of cosines and sines in all chunks, layers and heads.
/// </remarks>
/// <param name="bias">[heads, headDim], unrotated.</param>
/// <param name="rotations">Of the model's frequencies.</param>
public readonly unsafe struct KeyBias(float* bias, ChunkRotations rotations)
{
    /// <summary>Whether there is one.</summary>
    public bool Exists => bias is not null;

    /// <summary>[row] = (A, B) of q[row] and this head's bias.</summary>
    internal void Project<TLanes>(float* queries, int rows, int head, int headDim, float* projected)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        int pairs = headDim / 2;
        float* b = bias + ((long)head * headDim);
        for (int r = 0; r < rows; r++, queries += headDim, projected += headDim)
            Turn<TLanes>(queries, b, pairs, projected);
    }

    /// <summary>(A, B) turned to the start of a chunk.</summary>
    internal void Rotate<TLanes>(float* projected, int rows, int chunk, int headDim, float* rotated)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        float* start = rotations.Start(chunk);
        for (int r = 0; r < rows; r++, projected += headDim, rotated += headDim)
            Turn<TLanes>(projected, start, headDim / 2, rotated);
    }

    /// <summary>Cosines and sines of the positions of a chunk, counted from its start: [AttentionTile.Chunk, headDim].</summary>
    internal float* Within => rotations.Within;

    /// <summary>(x y + x' y', x' y - x y') for the pairs (x, x') and (y, y'): x turned back by y's angle. Each operation rounds.</summary>
    private static void Turn<TLanes>(float* x, float* y, int pairs, float* result)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        int i = 0;
        for (; i <= pairs - 16; i += 16)
        {
            TLanes xa = TLanes.Load(x + i), xb = TLanes.Load(x + pairs + i), ya = TLanes.Load(y + i), yb = TLanes.Load(y + pairs + i);
            TLanes.Store((xa * ya) + (xb * yb), result + i);
            TLanes.Store((xb * ya) - (xa * yb), result + pairs + i);
        }

        for (; i < pairs; i++)
        {
            float xa = x[i], xb = x[pairs + i], ya = y[i], yb = y[pairs + i];
            result[i] = (xa * ya) + (xb * yb);
            result[pairs + i] = (xb * ya) - (xa * yb);
        }
    }
}

/// <summary>The rotary angles at the starts of chunks of positions, and within a chunk: for <see cref="KeyBias"/>.</summary>
public sealed unsafe class ChunkRotations : IDisposable
{
    private readonly double[] _inverseFrequencies;
    private readonly NativeBuffer<float> _within, _starts;
    private int _chunks;

    /// <summary>Makes room.</summary>
    /// <param name="positions">Longest context.</param>
    /// <param name="inverseFrequencies">[headDim / 2], as given to <see cref="Rope.ComputeAngles"/>.</param>
    /// <param name="magnitude">Likewise.</param>
    public ChunkRotations(int positions, ReadOnlySpan<double> inverseFrequencies, double magnitude)
    {
        _inverseFrequencies = inverseFrequencies.ToArray();
        int headDim = 2 * inverseFrequencies.Length;
        _within = new NativeBuffer<float>((long)AttentionTile.Chunk * headDim);
        _starts = new NativeBuffer<float>((((long)positions / AttentionTile.Chunk) + 1) * headDim);
        for (int j = 0; j < AttentionTile.Chunk; j++)
            Fill(_within.Pointer + ((long)j * headDim), j, magnitude);
    }

    /// <summary>Cosines, then sines, of position j of a chunk, times the magnitude: [Chunk, headDim].</summary>
    internal float* Within => _within.Pointer;

    /// <summary>Computes the starts of chunks up to a position; those of before are there already.</summary>
    public void Reach(int position)
    {
        for (; _chunks <= position / AttentionTile.Chunk; _chunks++)
            Fill(_starts.Pointer + ((long)_chunks * 2 * _inverseFrequencies.Length), (long)_chunks * AttentionTile.Chunk, 1);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _within.Dispose();
        _starts.Dispose();
    }

    /// <summary>Cosines, then sines, of the first position of a chunk.</summary>
    internal float* Start(int chunk) => _starts.Pointer + ((long)chunk / AttentionTile.Chunk * 2 * _inverseFrequencies.Length);

    private void Fill(float* row, long position, double magnitude)
    {
        for (int i = 0; i < _inverseFrequencies.Length; i++)
        {
            (double sin, double cos) = Math.SinCos(position * _inverseFrequencies[i]);
            row[i] = (float)(cos * magnitude);
            row[_inverseFrequencies.Length + i] = (float)(sin * magnitude);
        }
    }
}
