using System.Runtime.CompilerServices;

namespace Qwen.Cpu;

/// <summary>Products of weight matrices with the activations of many tokens, over all threads.</summary>
/// <remarks>
/// The memory it works in is made once, for the largest product: running one allocates nothing. Rows are split in tiles of 16; which
/// thread does a tile, and how many tokens come at once, changes no bit of the result.
/// </remarks>
public sealed unsafe class Projection : IDisposable
{
    /// <summary>Enough pieces to even out the threads, and few: the kernels fetch ahead across tiles, and what lies ahead should be their own.</summary>
    private const int PiecesPerThread = 8;

    private readonly WorkerPool _pool;
    private readonly NativeBuffer<byte> _scratch;
    private readonly long _scratchPerWorker, _kernelScratch;
    private readonly long _widenedRows;
    private readonly NativeBuffer<byte> _quantized;
    private readonly NativeBuffer<float> _gathered;
    private readonly long _quantizedBytes;
    private readonly QuantizedActivations[] _inputs = new QuantizedActivations[MaxParts]; // of each part of the matrix in work

    /// <summary>Query, key and value.</summary>
    private const int MaxParts = 3;

    /// <summary>Makes room for products with up to <paramref name="maxTokens"/> tokens of up to <paramref name="maxColumns"/> values.</summary>
    public Projection(WorkerPool pool, int maxTokens, int maxColumns)
    {
        _pool = pool;
        int blockColumns = checked((maxColumns + QuantizedActivations.BlockColumns - 1) / QuantizedActivations.BlockColumns * QuantizedActivations.BlockColumns);
        _widenedRows = RoundUp(Math.Max(FloatRows.ScratchBytes(maxColumns), IntegerRows.ScratchBytes(blockColumns)));
        _kernelScratch = _widenedRows + RoundUp((long)StackedMatrix.TileRows * maxColumns * sizeof(float));
        // Behind the kernel's scratch: a tile of gate and one of up.
        _scratchPerWorker = _kernelScratch + RoundUp(2L * maxTokens * StackedMatrix.TileRows * sizeof(float));
        _scratch = new NativeBuffer<byte>(_scratchPerWorker * pool.Threads);
        _quantizedBytes = RoundUp(QuantizedActivations.Bytes(maxTokens, blockColumns));
        _quantized = new NativeBuffer<byte>(_quantizedBytes * MaxParts); // pages are touched only where inputs have several orders
        _gathered = new NativeBuffer<float>((long)maxTokens * maxColumns);
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
        _gathered.Dispose();
    }

    private static long RoundUp(long bytes) => (bytes + 63) & ~63L;

    private int Grain(int tiles) => Math.Max(1, tiles / (_pool.Threads * PiecesPerThread));

    /// <summary>The activations as codes, for the parts of the matrix that compute on those; once for each order of the inputs.</summary>
    private void Quantize(StackedMatrix w, float* x, long xStride, int tokens)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(w.Parts.Length, MaxParts);
        for (int part = 0; part < w.Parts.Length; part++)
        {
            if (w.Parts[part].Type.IsFloat)
                continue;
            int* order = w.Parts[part].InputOrder;
            int same = 0;
            while (same < part && (w.Parts[same].Type.IsFloat || w.Parts[same].InputOrder != order))
                same++;
            if (same < part)
            {
                _inputs[part] = _inputs[same];
                continue;
            }

            var job = new QuantizeJob(x, xStride, order, _gathered.Pointer, new QuantizedActivations(_quantized.Pointer + (part * _quantizedBytes), tokens, w.Columns));
            _pool.Run(ref job, tokens);
            _inputs[part] = job.Quantized;
        }
    }

    private void Multiply(
        in WeightMatrix w, int from, int to, float* x, long xStride, in QuantizedActivations quantized, int tokens, float* y, long yStride, bool accumulate, float* bias, byte* scratch)
    {
        if (w.Type == WeightType.F8_E4M3)
            Float8Rows.Multiply(w, from, to, x, xStride, tokens, y, yStride, accumulate, scratch, (float*)(scratch + _widenedRows));
        else if (w.Type.IsFloat)
            FloatRows.Multiply(w, from, to, x, xStride, tokens, y, yStride, accumulate, scratch);
        else
            IntegerRows.Multiply(w, from, to, quantized, tokens, y, yStride, accumulate, scratch);
        if (bias is null)
            return;
        for (int t = 0; t < tokens; t++)
        {
            float* row = y + (t * yStride);
            for (int r = from; r < to; r++)
                row[r - from] += bias[r];
        }
    }

    private readonly struct QuantizeJob(float* x, long xStride, int* order, float* gathered, QuantizedActivations quantized) : IJob
    {
        public QuantizedActivations Quantized => quantized;

        public void Execute(int from, int to, int worker)
        {
            if (order is null)
            {
                ActivationQuantizer.Quantize(x, xStride, from, to, quantized);
                return;
            }

            for (int t = from; t < to; t++)
            {
                for (int k = 0; k < quantized.Columns; k++)
                    gathered[((long)t * quantized.Columns) + k] = x[(t * xStride) + order[k]];
            }

            ActivationQuantizer.Quantize(gathered, quantized.Columns, from, to, quantized);
        }
    }

    private readonly struct LinearJob(
        Projection owner, StackedMatrix w, float* x, long xStride, int tokens, float* y, long yStride, bool accumulate) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            byte* scratch = owner._scratch.Pointer + (worker * owner._scratchPerWorker);
            for (int part = 0; part < w.Parts.Length; part++)
            {
                int first = w.FirstTile(part);
                int firstRow = (Math.Max(from, first) - first) * StackedMatrix.TileRows;
                int lastRow = Math.Min((Math.Min(to, w.FirstTile(part + 1)) - first) * StackedMatrix.TileRows, w.Parts[part].Rows);
                if (firstRow < lastRow)
                    owner.Multiply(w.Parts[part], firstRow, lastRow, x, xStride, owner._inputs[part], tokens, y + w.FirstRow(part) + firstRow, yStride, accumulate, w.Bias(part), scratch);
            }
        }
    }

    private readonly struct GatedJob(
        Projection owner, StackedMatrix w, float* x, long xStride, int tokens, float* y, long yStride) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            byte* scratch = owner._scratch.Pointer + (worker * owner._scratchPerWorker);
            float* gate = (float*)(scratch + owner._kernelScratch);
            float* up = gate + ((long)tokens * StackedMatrix.TileRows);
            for (int tile = from; tile < to; tile++)
            {
                int first = tile * StackedMatrix.TileRows, last = Math.Min(first + StackedMatrix.TileRows, w.Parts[0].Rows), rows = last - first;
                owner.Multiply(w.Parts[0], first, last, x, xStride, owner._inputs[0], tokens, gate, rows, false, w.Bias(0), scratch);
                owner.Multiply(w.Parts[1], first, last, x, xStride, owner._inputs[1], tokens, up, rows, false, w.Bias(1), scratch);
                SwiGlu.Apply(gate, up, gate, (long)tokens * rows);
                for (int t = 0; t < tokens; t++)
                    Unsafe.CopyBlockUnaligned(y + (t * yStride) + first, gate + ((long)t * rows), (uint)rows * sizeof(float));
            }
        }
    }
}
