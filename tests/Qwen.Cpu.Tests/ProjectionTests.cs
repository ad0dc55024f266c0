namespace Qwen.Cpu.Tests;

public sealed unsafe class ProjectionTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(3)]
    public void Linear_TakesEachPartsInputsInItsOrder(int threads)
    {
        const int Columns = 128, Tokens = 9;
        int seed = Environment.TickCount;
        Random random = new(seed);
        using WorkerPool pool = new(threads);
        using Projection projection = new(pool, Tokens, Columns);
        using NativeBuffer<float> x = TestData.Floats(random, Tokens * Columns), biases = TestData.Floats(random, 37);
        using NativeBuffer<int> orders = new(2 * Columns);
        for (int i = 0; i < 2; i++)
        {
            int[] order = [.. Enumerable.Range(0, Columns)];
            random.Shuffle(order);
            order.CopyTo(orders.Span[(i * Columns)..]);
        }

        // Two parts share an order, one has its own, one none; and a float part is between them.
        using Part a = new(WeightType.Int4G128, 37, Columns, random, orders.Pointer), b = new(WeightType.Int8G32, 5, Columns, random, orders.Pointer + Columns);
        using Part c = new(WeightType.Q4_0, 20, Columns, random, null), d = new(WeightType.Int4G64, 16, Columns, random, orders.Pointer);
        var (bytes, f16, value) = TestData.Matrix(random, WeightType.F16, 7, Columns);
        using NativeBuffer<byte> memory = bytes;
        StackedMatrix w = new([a.Matrix, b.Matrix, f16, c.Matrix, d.Matrix], [biases.Pointer, null, null, null, null]);
        Assert.Equal(3, w.Orders);

        float[] y = new float[Tokens * w.Rows];
        fixed (float* output = y)
            projection.Linear(w, x.Pointer, Columns, Tokens, output, w.Rows, accumulate: false);
        for (int t = 0; t < Tokens; t++)
        {
            for (int r = 0; r < w.Rows; r++)
            {
                float* token = x.Pointer + (t * Columns);
                float expected = r switch
                {
                    < 37 => a.Dot(r, token) + biases.Pointer[r],
                    < 42 => b.Dot(r - 37, token),
                    < 49 => TestData.Dot(k => value(r - 42, k), k => token[k], Columns),
                    < 69 => c.Dot(r - 49, token),
                    _ => d.Dot(r - 69, token),
                };
                TestData.SameBits(expected, y[(t * w.Rows) + r], $"seed {seed}: token {t}, row {r}");
            }
        }
    }

    [Fact]
    public void Gated_GivesATokenTheSameBits_AloneAndInABatch()
    {
        const int Rows = 40, Columns = 256, Tokens = 20;
        int seed = Environment.TickCount;
        Random random = new(seed);
        using WorkerPool pool = new(2);
        using Projection projection = new(pool, Tokens, Columns);
        using NativeBuffer<float> x = TestData.Floats(random, Tokens * Columns), scales = TestData.Floats(random, 64);
        using NativeBuffer<byte> codes = new(Rows * Columns);
        random.NextBytes(codes.Span);
        foreach (ref byte code in codes.Span)
            code &= 0xF7; // no NaN
        WeightMatrix f8 = new(WeightType.F8_E4M3, Rows, Columns, codes.Pointer, Columns, new ScaleGrid(scales.Pointer, 16, 128));
        using Part int4 = new(WeightType.Int4G128, Rows, Columns, random, null);
        StackedMatrix w = new([f8, int4.Matrix], [null, null]);

        float[] batch = new float[Tokens * Rows], alone = new float[Tokens * Rows];
        fixed (float* together = batch, single = alone)
        {
            projection.Gated(w, x.Pointer, Columns, Tokens, together, Rows);
            for (int t = 0; t < Tokens; t++)
                projection.Gated(w, x.Pointer + (t * Columns), Columns, 1, single + (t * Rows), Rows);
        }

        Assert.DoesNotContain(batch, float.IsNaN);
        Assert.True(batch.AsSpan().SequenceEqual(alone), $"seed {seed}");
    }

    [Fact]
    public void StackedMatrix_RejectsScalesAndOrdersThatDoNotFit()
    {
        float* scale = stackalloc float[1];
        byte* data = stackalloc byte[1]; // never read
        int* order = stackalloc int[64];
        order[63] = 64;
        Assert.Throws<ArgumentException>(() => Stack(new(WeightType.F8_E4M3, 1, 64, data, 64)));
        Assert.Throws<ArgumentException>(() => Stack(new(WeightType.F8_E4M3, 1, 64, data, 64, new ScaleGrid(scale, 0, 64))));
        Assert.Throws<ArgumentException>(() => Stack(new(WeightType.F8_E4M3, 1, 64, data, 64, new ScaleGrid(scale, 1, 24))));
        Assert.Throws<ArgumentException>(() => Stack(new(WeightType.Int4G64, 1, 64, data, 36, inputOrder: order)));
        order[63] = 0;
        Stack(new(WeightType.Int4G64, 1, 64, data, 36, inputOrder: order));
        Assert.Throws<ArgumentException>(() => Stack(new(WeightType.F16, 1, 64, data, 128, inputOrder: order)));

        static void Stack(WeightMatrix w) => _ = new StackedMatrix([w], [null]);
    }

    /// <summary>Random blocks, and their product with a token whose features are put in order first.</summary>
    private sealed class Part : IDisposable
    {
        private readonly NativeBuffer<byte> _blocks;

        public Part(WeightType type, int rows, int columns, Random random, int* order)
        {
            byte[] bytes = ReferenceBlocks.Random(type, rows, columns, random);
            _blocks = new NativeBuffer<byte>(bytes.Length);
            bytes.CopyTo(_blocks.Span);
            Matrix = new WeightMatrix(type, rows, columns, _blocks.Pointer, bytes.Length / rows, inputOrder: order);
        }

        public WeightMatrix Matrix { get; }

        public float Dot(int row, float* token)
        {
            int columns = Matrix.Columns;
            using NativeBuffer<float> x = new(columns);
            for (int k = 0; k < columns; k++)
                x.Pointer[k] = token[Matrix.InputOrder is null ? k : Matrix.InputOrder[k]];
            using NativeBuffer<byte> quantized = new(QuantizedActivations.Bytes(1, columns)), scratch = new(IntegerRows.ScratchBytes(columns));
            QuantizedActivations activations = new(quantized.Pointer, 1, columns);
            ActivationQuantizer.Quantize(x.Pointer, columns, 0, 1, activations);
            float y;
            IntegerRows.Multiply(Matrix, row, row + 1, activations, 1, &y, 1, accumulate: false, scratch.Pointer);
            return y;
        }

        public void Dispose() => _blocks.Dispose();
    }
}
