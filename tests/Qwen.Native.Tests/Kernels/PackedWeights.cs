using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.Native.Tests.Kernels;

/// <summary>Random weights in a packed format, and the product with them as plain sums in double precision.</summary>
internal sealed class PackedWeights : IPackedSource
{
    private readonly byte[] _codes;
    private readonly float[] _scales, _offsets;
    private readonly int _groups;

    public PackedWeights(PackedMatrix matrix, Random random)
    {
        Matrix = matrix;
        _groups = matrix.Groups;
        _codes = new byte[matrix.Outputs * matrix.Inputs];
        _scales = new float[matrix.Outputs * _groups];
        _offsets = matrix.Format.Offset == PackedOffset.None ? [] : new float[_scales.Length];
        int codes = 1 << matrix.Format.Bits;
        for (int i = 0; i < _codes.Length; i++)
            _codes[i] = (byte)random.Next(codes);
        for (int i = 0; i < _scales.Length; i++)
        {
            _scales[i] = (float)(Half)((random.NextSingle() + 0.1f) / codes);
            if (matrix.Format.Offset == PackedOffset.ZeroPoint)
                _offsets[i] = random.Next(codes + 1); // GPTQ's first format reaches one beyond the codes
            else if (matrix.Format.Offset == PackedOffset.Minimum)
                _offsets[i] = (float)(Half)(random.NextSingle() - 1);
        }
    }

    public PackedMatrix Matrix { get; }

    public void Read(int firstRow, int rows, Span<byte> codes, Span<float> scales, Span<float> offsets)
    {
        _codes.AsSpan(firstRow * Matrix.Inputs, rows * Matrix.Inputs).CopyTo(codes);
        _scales.AsSpan(firstRow * _groups, rows * _groups).CopyTo(scales);
        if (_offsets.Length > 0)
            _offsets.AsSpan(firstRow * _groups, rows * _groups).CopyTo(offsets);
    }

    public double Weight(int row, int column)
    {
        (int code, double scale, double offset) = Parts(row, column);
        return Matrix.Format.Offset == PackedOffset.Minimum ? (scale * code) + offset : scale * (code - offset);
    }

    /// <summary>The weights [Outputs, Inputs], and the sizes of what a kernel adds up in their place: a code's bias (at most 1024 + 256) in and out, a minimum.</summary>
    public (double[] Values, double[] Sizes) Weights()
    {
        var (values, sizes) = (new double[_codes.Length], new double[_codes.Length]);
        for (int i = 0; i < _codes.Length; i++)
        {
            values[i] = Weight(i / Matrix.Inputs, i % Matrix.Inputs);
            (_, double scale, double offset) = Parts(i / Matrix.Inputs, i % Matrix.Inputs);
            sizes[i] = (scale * 2 * 1280) + Math.Abs(offset);
        }

        return (values, sizes);
    }

    private (int Code, double Scale, double Offset) Parts(int row, int column)
    {
        int group = (row * _groups) + (Matrix.Format.GroupSize == PackedFormat.WholeRow ? 0 : column / Matrix.Format.GroupSize);
        return (_codes[(row * Matrix.Inputs) + column], _scales[group], _offsets.Length > 0 ? _offsets[group] : Matrix.Format.Middle);
    }

    /// <summary>Every format.</summary>
    public static IEnumerable<PackedFormat> Formats() =>
        from bits in new[] { 4, 8 }
        from size in new[] { 32, 64, 128, PackedFormat.WholeRow }
        from offset in Enum.GetValues<PackedOffset>()
        select new PackedFormat(bits, size, offset);

    /// <summary>Every product of a format.</summary>
    public static IEnumerable<PackedProduct> Products(PackedFormat format) =>
        from type in new[] { ElementType.F16, ElementType.BF16 }
        from result in new[] { (Type: type, Add: false), (Type: ElementType.F32, Add: false), (Type: ElementType.F32, Add: true) }
        from bias in new[] { false, true }
        select new PackedProduct(format, type, result.Type, result.Add, bias);

    /// <summary>The products of a gate and an up projection.</summary>
    public static IEnumerable<PackedProduct> GatedProducts(PackedFormat format) =>
        from type in new[] { ElementType.F16, ElementType.BF16 }
        select new PackedProduct(format, type, type, Bias: type == ElementType.F16, Gated: true);
}
