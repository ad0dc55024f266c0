using Qwen.Cpu;
using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>Codes of 4 or 8 bits in groups, which kernels decode in registers: AWQ, GPTQ, and GGUF's Q4_0, Q4_1, Q4_K and Q8_0, packed once when they are loaded.</summary>
internal sealed class PackedLinear : CudaLinear
{
    /// <summary>
    /// Rows from which it's faster to unpack the weights and leave the product to the matrix library. On an H200 unpacking takes as long as the library for 256 rows of a
    /// 7B model's gate and up projections (100 us), and our own kernel, when it took 174 us for those, was ahead up to 192 to 384 rows, by the shape.
    /// </summary>
    private const int LeastUnpackedRows = 193;

    private readonly PackedMatrix _matrix;
    private readonly DevicePointer _weights, _inputOrder;

    private PackedLinear(PackedMatrix matrix, DevicePointer weights, DevicePointer inputOrder, CudaBias biases)
        : base(matrix.Inputs, matrix.Outputs, biases) => (_matrix, _weights, _inputOrder) = (matrix, weights, inputOrder);

    public override long ByteCount => _matrix.ByteCount;

    /// <summary>Takes matrices that are quantized alike and that kernels take; null for others.</summary>
    public static PackedLinear? TryLoad(CudaLoader loader, IReadOnlyList<StoredMatrix> matrices, CudaBias biases)
    {
        int inputs = matrices[0].Columns, outputs = matrices.Sum(m => m.Rows);
        var sources = new List<(IPackedSource, int)>();
        if (Plan(matrices, sources, out int[]? inputOrder) is not { } format)
            return null;

        var matrix = new PackedMatrix(outputs, inputs, format);
        var source = new StackedSource(sources, inputs, matrix.Groups);
        DevicePointer order = inputOrder is null ? DevicePointer.Null : loader.Upload<int>(inputOrder);
        DevicePointer weights = loader.Take(matrix.ByteCount);
        if (loader.Rows >= LeastUnpackedRows)
            loader.ReserveUnpacked((long)inputs * outputs * sizeof(ushort));
        if (inputOrder is not null)
            loader.ReserveInputs((long)inputs * loader.Rows * sizeof(ushort));
        if (loader.Staging is { } staging)
        {
            using var scales = new NativeBuffer<byte>(matrix.RowTiles * matrix.RowTileScaleBytes);
            staging.Upload(weights, matrix.RowTiles, matrix.RowTileCodeBytes, (first, part) =>
            {
                int tiles = (int)(part.Length / matrix.RowTileCodeBytes);
                matrix.Pack(source, (int)first, tiles, part, scales.Span.Slice((int)(first * matrix.RowTileScaleBytes), (int)(tiles * matrix.RowTileScaleBytes)));
            });
            staging.Upload<byte>(weights + matrix.CodeBytes, scales.Span);
        }

        return new PackedLinear(matrix, weights, order, biases);
    }

    public override void Multiply(CudaOps ops, DevicePointer x, DevicePointer y, ElementType result, int rows, bool accumulate, in FusedNormArguments norm = default)
    {
        x = Ordered(ops, x, rows);
        if (rows >= LeastUnpackedRows)
        {
            ops.Unpack(_matrix.Format).Launch(ops.Stream, _matrix, _weights, ops.Unpacked);
            MultiplyMany(ops, ops.Unpacked, x, y, result, rows, accumulate);
            return;
        }

        MultiplyPacked(ops, new PackedProduct(_matrix.Format, ops.Type, result, accumulate, Biases.Exists, Norm: norm.Half), x, y, rows, norm);
    }

    public override void MultiplyGated(CudaOps ops, DevicePointer x, DevicePointer gateUp, DevicePointer y, int rows, in FusedNormArguments norm)
    {
        if (rows >= LeastUnpackedRows || !PackedGemvKernel.CanGate(_matrix))
            base.MultiplyGated(ops, x, gateUp, y, rows, norm);
        else
            MultiplyPacked(ops, new PackedProduct(_matrix.Format, ops.Type, ops.Type, Bias: Biases.Exists, Gated: true, Norm: norm.Half), Ordered(ops, x, rows), y, rows, norm);
    }

    private void MultiplyPacked(CudaOps ops, PackedProduct product, DevicePointer x, DevicePointer y, int rows, in FusedNormArguments norm)
    {
        if (rows <= PackedGemvKernel.MostRows)
            ops.PackedGemv(product, _matrix).Launch(ops.Stream, _matrix, _weights, x, Biases.Single, y, rows, norm);
        else
            ops.PackedGemm(product, _matrix, rows).Launch(ops.Stream, _matrix, _weights, x, Biases.Single, y, rows, ops.PartialSums);
    }

    /// <summary>Inputs in the order that the weights are packed in.</summary>
    private DevicePointer Ordered(CudaOps ops, DevicePointer x, int rows)
    {
        if (_inputOrder.IsNull)
            return x;
        ops.PermuteColumns(Inputs).Launch(ops.Stream, x, _inputOrder, ops.Inputs, rows);
        return ops.Inputs;
    }

    /// <summary>How the matrices are packed together, what each is read by, and the order of their inputs; null where they can't be.</summary>
    private static PackedFormat? Plan(IReadOnlyList<StoredMatrix> matrices, List<(IPackedSource, int)> sources, out int[]? inputOrder)
    {
        inputOrder = null;
        if (matrices.All(m => m is TensorMatrix))
        {
            TensorType type = ((TensorMatrix)matrices[0]).Tensor.Type;
            if (GgufSource.FormatOf(type) is not { } format || matrices.Any(m => ((TensorMatrix)m).Tensor.Type != type))
                return null;
            sources.AddRange(matrices.Select(m => ((IPackedSource)new GgufSource(((TensorMatrix)m).Tensor), m.Rows)));
            return format;
        }

        if (!matrices.All(m => m is GroupQuantizedMatrix))
            return null;
        GroupQuantizedMatrix[] groups = [.. matrices.Cast<GroupQuantizedMatrix>()];
        bool hasOffsets = groups.Any(g => g.Zeros is not null);
        GroupPlan first = default;
        for (int i = 0; i < groups.Length; i++)
        {
            if (!GroupRepacker.TryPlan(groups[i], out GroupPlan plan) || groups[i].Bits != groups[0].Bits)
                return null;
            if (i == 0)
                first = plan;
            else if (plan.BlockColumns != first.BlockColumns || !plan.InputOrder.AsSpan().SequenceEqual(first.InputOrder))
                return null;
            sources.Add((new GroupSource(groups[i], plan, hasOffsets), groups[i].Rows));
        }

        inputOrder = first.InputOrder;
        return new PackedFormat(groups[0].Bits, first.BlockColumns, hasOffsets ? PackedOffset.ZeroPoint : PackedOffset.None);
    }
}
