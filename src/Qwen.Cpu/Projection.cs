using System.Runtime.CompilerServices;

namespace Qwen.Cpu;

/// <summary>Products of weight matrices with the activations of many tokens, over all threads.</summary>
/// <remarks>
/// The memory it works in is made once, for the largest product, and grows only when a matrix first takes activations in more orders than
/// those before: running one allocates nothing. Rows are split in tiles of 16; which
/// thread does a tile, and how many tokens come at once, changes no bit of the result.
/// </remarks>
public sealed unsafe class Projection : IDisposable
{
    /// <summary>Enough pieces to even out the threads, and few: the kernels fetch ahead across tiles, and what lies ahead should be their own.</summary>
    private const int PiecesPerThread = 8;

    /// <summary>
    /// Tiles of gate that are done before as many of up: enough that kernels which take many rows at once do, and that few tokens' reads change
    /// seldom between the two places in memory.
    /// </summary>
    private const int GatedTiles = 4;

    private readonly WorkerPool _pool;
    private readonly NativeBuffer<byte> _scratch;
    private readonly long _scratchPerWorker, _kernelScratch;
    private readonly long _quantizedBytes;
    private NativeBuffer<byte> _quantized;
    private QuantizedActivations[] _inputs = new QuantizedActivations[1]; // one for each order in which the parts of the matrix take them

    /// <summary>Makes room for products with up to <paramref name="maxTokens"/> tokens of up to <paramref name="maxColumns"/> values.</summary>
    public Projection(WorkerPool pool, int maxTokens, int maxColumns)
    {
        _pool = pool;
        int blockColumns = checked((maxColumns + QuantizedActivations.BlockColumns - 1) / QuantizedActivations.BlockColumns * QuantizedActivations.BlockColumns);
        _kernelScratch = RoundUp(Math.Max(FloatRows.ScratchBytes(maxColumns), IntegerRows.ScratchBytes(blockColumns)));
        // Behind the kernel's scratch: some tiles of gate and as many of up.
        _scratchPerWorker = _kernelScratch + RoundUp(2L * GatedTiles * maxTokens * StackedMatrix.TileRows * sizeof(float));
        _scratch = new NativeBuffer<byte>(_scratchPerWorker * pool.Threads);
        _quantizedBytes = RoundUp(QuantizedActivations.Bytes(maxTokens, blockColumns));
        _quantized = new NativeBuffer<byte>(_quantizedBytes);
    }

    /// <summary>y[t, r] (+)= W[r, :] . x[t, :] + bias[r].</summary>
    /// <param name="w">[Rows, Columns].</param>
    /// <param name="x">[tokens, Columns] with <paramref name="xStride"/> floats from row to row.</param>
    /// <param name="xStride">At least Columns.</param>
    /// <param name="tokens">Rows of x and y.</param>
    /// <param name="y">[tokens, Rows] with <paramref name="yStride"/> floats from row to row.</param>
    /// <param name="yStride">At least Rows.</param>
    /// <param name="accumulate">Adds to what y holds.</param>
    public void Linear(StackedMatrix w, float* x, long xStride, int tokens, float* y, long yStride, bool accumulate)
    {
        Quantize(w, x, xStride, tokens);
        var job = new LinearJob(this, w, x, xStride, tokens, y, yStride, accumulate);
        _pool.Run(ref job, w.Tiles, Grain(w.Tiles));
    }

    /// <summary>y[t, r] = SiLU(gate[r, :] . x[t, :]) * (up[r, :] . x[t, :]).</summary>
    /// <param name="gateUp">Gate and up, stacked: two parts with the same rows.</param>
    /// <param name="x">[tokens, Columns].</param>
    /// <param name="xStride">Floats from row to row of x.</param>
    /// <param name="tokens">Rows of x and y.</param>
    /// <param name="y">[tokens, Rows / 2].</param>
    /// <param name="yStride">Floats from row to row of y.</param>
    public void Gated(StackedMatrix gateUp, float* x, long xStride, int tokens, float* y, long yStride)
    {
        Quantize(gateUp, x, xStride, tokens);
        var job = new GatedJob(this, gateUp, x, xStride, tokens, y, yStride);
        _pool.Run(ref job, gateUp.FirstTile(1), Grain(gateUp.FirstTile(1)));
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _scratch.Dispose();
        _quantized.Dispose();
    }

    private static long RoundUp(long bytes) => (bytes + 63) & ~63L;

    private int Grain(int tiles) => Math.Max(1, tiles / (_pool.Threads * PiecesPerThread));

    /// <summary>The activations as codes, in each order in which some part of the matrix computes on those.</summary>
    private void Quantize(StackedMatrix w, float* x, long xStride, int tokens)
    {
        if (w.Orders > _inputs.Length)
        {
            _quantized.Dispose();
            _quantized = new NativeBuffer<byte>(checked(_quantizedBytes * w.Orders));
            _inputs = new QuantizedActivations[w.Orders];
        }

        for (int i = 0; i < w.Orders; i++)
        {
            _inputs[i] = new QuantizedActivations(_quantized.Pointer + (i * _quantizedBytes), tokens, w.Columns);
            var job = new QuantizeJob(this, x, xStride, w.Order(i), _inputs[i]);
            _pool.Run(ref job, tokens);
        }
    }

    /// <summary>Rows [from, to) of a part, which y begins at.</summary>
    private void Multiply(
        StackedMatrix w, int part, int from, int to, float* x, long xStride, int tokens, float* y, long yStride, bool accumulate, byte* scratch)
    {
        ref readonly WeightMatrix matrix = ref w.Parts[part];
        if (matrix.Type.IsFloat)
            FloatRows.Multiply(matrix, from, to, x, xStride, tokens, y, yStride, accumulate, scratch);
        else
            IntegerRows.Multiply(matrix, from, to, _inputs[w.OrderOf(part)], tokens, y, yStride, accumulate, scratch);
        float* bias = w.Bias(part);
        if (bias is null)
            return;
        for (int t = 0; t < tokens; t++)
        {
            float* row = y + (t * yStride);
            for (int r = from; r < to; r++)
                row[r - from] += bias[r];
        }
    }

    private byte* Scratch(int worker) => _scratch.Pointer + (worker * _scratchPerWorker);

    private readonly struct QuantizeJob(Projection owner, float* x, long xStride, int* order, QuantizedActivations quantized) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            if (order is null)
            {
                ActivationQuantizer.Quantize(x, xStride, from, to, quantized);
                return;
            }

            float* gathered = (float*)owner.Scratch(worker);
            for (int t = from; t < to; t++)
            {
                float* values = x + (t * xStride);
                for (int k = 0; k < quantized.Columns; k++)
                    gathered[k] = values[order[k]];
                ActivationQuantizer.Quantize(gathered, 0, t, t + 1, quantized);
            }
        }
    }

    private readonly struct LinearJob(
        Projection owner, StackedMatrix w, float* x, long xStride, int tokens, float* y, long yStride, bool accumulate) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            byte* scratch = owner.Scratch(worker);
            for (int part = 0; part < w.Parts.Length; part++)
            {
                int first = w.FirstTile(part);
                int firstRow = (Math.Max(from, first) - first) * StackedMatrix.TileRows;
                int lastRow = Math.Min((Math.Min(to, w.FirstTile(part + 1)) - first) * StackedMatrix.TileRows, w.Parts[part].Rows);
                if (firstRow < lastRow)
                    owner.Multiply(w, part, firstRow, lastRow, x, xStride, tokens, y + w.FirstRow(part) + firstRow, yStride, accumulate, scratch);
            }
        }
    }

    private readonly struct GatedJob(
        Projection owner, StackedMatrix w, float* x, long xStride, int tokens, float* y, long yStride) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            byte* scratch = owner.Scratch(worker);
            float* gate = (float*)(scratch + owner._kernelScratch);
            float* up = gate + ((long)tokens * GatedTiles * StackedMatrix.TileRows);
            for (int tile = from; tile < to; tile += GatedTiles)
            {
                int first = tile * StackedMatrix.TileRows, last = Math.Min(Math.Min(tile + GatedTiles, to) * StackedMatrix.TileRows, w.Parts[0].Rows), rows = last - first;
                owner.Multiply(w, 0, first, last, x, xStride, tokens, gate, rows, false, scratch);
                owner.Multiply(w, 1, first, last, x, xStride, tokens, up, rows, false, scratch);
                SwiGlu.Apply(gate, up, gate, (long)tokens * rows);
                for (int t = 0; t < tokens; t++)
                    Unsafe.CopyBlockUnaligned(y + (t * yStride) + first, gate + ((long)t * rows), (uint)rows * sizeof(float));
            }
        }
    }
}
