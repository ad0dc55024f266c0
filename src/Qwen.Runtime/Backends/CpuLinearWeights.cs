using Qwen.Cpu;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Backends;

/// <summary>
/// Stacked matrices as the CPU computes on them. Tensors and FP8 codes stay where the file is mapped, which the checkpoint keeps alive;
/// AWQ and GPTQ are repacked (<see cref="GroupRepacker"/>); what no kernel takes is dequantized to F32 rows.
/// </summary>
internal sealed unsafe class CpuLinearWeights : LinearWeights
{
    private readonly WorkerPool _pool;
    private readonly List<IDisposable> _owned = [];
    private readonly List<(int[] Columns, nint Pointer)> _orders = [];

    public CpuLinearWeights(WorkerPool pool, IReadOnlyList<StoredMatrix> matrices, IReadOnlyList<Tensor?> biases)
        : base(matrices[0].Columns, matrices.Sum(m => m.Rows))
    {
        _pool = pool;
        try
        {
            WeightMatrix[] parts = [.. matrices.Select(Load)];
            var pointers = new float*[biases.Count];
            for (int i = 0; i < pointers.Length; i++)
                pointers[i] = biases[i] is { } bias ? Own(new CpuVectorWeights(bias)).Values : null;
            Matrix = new StackedMatrix(parts, pointers);
            ByteCount = parts.Sum(p => p.Rows * p.RowBytes) + biases.Sum(b => (b?.ElementCount ?? 0) * sizeof(float));
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    public StackedMatrix Matrix { get; }

    public override long ByteCount { get; }

    public override void Dispose()
    {
        foreach (IDisposable memory in _owned)
            memory.Dispose();
    }

    private WeightMatrix Load(StoredMatrix matrix) => matrix switch
    {
        TensorMatrix plain => new WeightMatrix(TypeOf(plain.Tensor), plain.Rows, plain.Columns, plain.Tensor.Data, plain.Tensor.ByteCount / plain.Rows),
        Float8Matrix float8 when float8.BlockColumns % 16 == 0 || float8.BlockColumns >= float8.Columns =>
            new WeightMatrix(WeightType.F8_E4M3, float8.Rows, float8.Columns, float8.Codes.Data, float8.Columns, Grid(float8)),
        GroupQuantizedMatrix groups when GroupRepacker.TryPlan(groups, out GroupPlan plan) => Repack(groups, plan),
        _ => Widen(matrix),
    };

    private ScaleGrid Grid(Float8Matrix matrix)
    {
        var scales = Own(new NativeBuffer<float>(matrix.Scales.ElementCount));
        for (long i = 0; i < scales.Length; i++)
            scales.Pointer[i] = matrix.Scales.FloatAt(i);
        return new ScaleGrid(scales.Pointer, matrix.BlockRows, matrix.BlockColumns);
    }

    private WeightMatrix Repack(GroupQuantizedMatrix matrix, GroupPlan plan)
    {
        long rowBytes = plan.RowBytes(matrix);
        var blocks = Own(new NativeBuffer<byte>(matrix.Rows * rowBytes));
        GroupRepacker.Run(_pool, matrix, plan, blocks.Pointer);
        return new WeightMatrix(plan.Type(matrix), matrix.Rows, matrix.Columns, blocks.Pointer, rowBytes, inputOrder: Order(plan.InputOrder));
    }

    /// <summary>The order in native memory; the same memory for the same order, so that kernels gather activations once for both.</summary>
    private int* Order(int[]? columns)
    {
        if (columns is null)
            return null;
        foreach ((int[] known, nint pointer) in _orders)
        {
            if (known.AsSpan().SequenceEqual(columns))
                return (int*)pointer;
        }

        var order = Own(new NativeBuffer<int>(columns.Length));
        columns.CopyTo(order.Span);
        _orders.Add((columns, (nint)order.Pointer));
        return order.Pointer;
    }

    private WeightMatrix Widen(StoredMatrix matrix)
    {
        var values = Own(new NativeBuffer<float>((long)matrix.Rows * matrix.Columns));
        var job = new WidenJob(matrix, values.Pointer);
        _pool.Run(ref job, matrix.Rows, grain: 16);
        return new WeightMatrix(WeightType.F32, matrix.Rows, matrix.Columns, (byte*)values.Pointer, matrix.Columns * (long)sizeof(float));
    }

    private T Own<T>(T memory)
        where T : IDisposable
    {
        _owned.Add(memory);
        return memory;
    }

    /// <summary>How the kernels call a tensor's type.</summary>
    /// <exception cref="ModelFormatException">It is no type of weights.</exception>
    public static WeightType TypeOf(Tensor tensor) => tensor.Type switch
    {
        TensorType.F32 => WeightType.F32,
        TensorType.F16 => WeightType.F16,
        TensorType.BF16 => WeightType.BF16,
        TensorType.Q4_0 => WeightType.Q4_0,
        TensorType.Q4_1 => WeightType.Q4_1,
        TensorType.Q5_0 => WeightType.Q5_0,
        TensorType.Q5_1 => WeightType.Q5_1,
        TensorType.Q8_0 => WeightType.Q8_0,
        TensorType.Q2_K => WeightType.Q2_K,
        TensorType.Q3_K => WeightType.Q3_K,
        TensorType.Q4_K => WeightType.Q4_K,
        TensorType.Q5_K => WeightType.Q5_K,
        TensorType.Q6_K => WeightType.Q6_K,
        TensorType.Q8_K => WeightType.Q8_K,
        TensorType.IQ4_NL => WeightType.IQ4_NL,
        TensorType.IQ4_XS => WeightType.IQ4_XS,
        _ => throw new ModelFormatException(tensor.File, $"tensor '{tensor.Name}' is stored as {tensor.Type}, which is no type of weights"),
    };

    private readonly struct WidenJob(StoredMatrix matrix, float* values) : IJob
    {
        public void Execute(int from, int to, int worker)
        {
            for (int row = from; row < to; row++)
                matrix.Dequantize(row, 1, new Span<float>(values + ((long)row * matrix.Columns), matrix.Columns));
        }
    }
}
