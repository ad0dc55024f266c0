using Qwen.Cpu;
using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>A projection in device memory: one matrix, or several stacked, in one of the forms that a GPU multiplies by.</summary>
/// <param name="inputs">Columns.</param>
/// <param name="outputs">Rows of all stacked matrices.</param>
/// <param name="biases">Their biases.</param>
internal abstract class CudaLinear(int inputs, int outputs, CudaBias biases) : LinearWeights(inputs, outputs)
{
    /// <summary>The biases.</summary>
    protected CudaBias Biases { get; } = biases;

    /// <summary>Takes matrices that share their inputs.</summary>
    public static CudaLinear Load(CudaLoader loader, IReadOnlyList<StoredMatrix> matrices, IReadOnlyList<Tensor?> biases)
    {
        if (matrices[0].Columns % 8 != 0 || matrices.Any(m => m.Rows % 8 != 0))
            throw new ModelFormatException(matrices[0].File, $"'{matrices[0].Name}': a GPU computes on matrices whose sides are multiples of 8, not on [{string.Join(" + ", matrices.Select(m => m.Rows))}, {matrices[0].Columns}]");
        CudaBias bias = CudaBias.Load(loader, matrices, biases);
        return (CudaLinear?)PackedLinear.TryLoad(loader, matrices, bias) ?? (CudaLinear?)Float8Linear.TryLoad(loader, matrices, bias) ?? DenseLinear.Load(loader, matrices, bias);
    }

    /// <summary>How so many rows of inputs are to be quantized by what writes them; None where they are wanted in the backend's type.</summary>
    public virtual MatmulScale InputScale(CudaOps ops, int rows) => MatmulScale.None;

    /// <summary>y[t, :] (+)= W x[t, :] + bias.</summary>
    /// <param name="ops">What computes.</param>
    /// <param name="x">[rows, Inputs] of the backend's type.</param>
    /// <param name="y">[rows, Outputs].</param>
    /// <param name="result">Type of y: the backend's, or F32.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="accumulate">Add to what y, of F32, holds.</param>
    /// <param name="norm">Of few rows: the half of a norm that is done on the side.</param>
    public abstract void Multiply(CudaOps ops, DevicePointer x, DevicePointer y, ElementType result, int rows, bool accumulate, in FusedNormArguments norm = default);

    /// <summary>y[t, i] = SiLU(g[t, i]) * u[t, i], g and u the results of the gate and of the up projection, which W has one above the other.</summary>
    /// <param name="ops">What computes.</param>
    /// <param name="x">[rows, Inputs] of the backend's type.</param>
    /// <param name="gateUp">Room for [rows, Outputs] of the backend's type.</param>
    /// <param name="y">[rows, Outputs / 2] of the backend's type.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="norm">Of few rows: what x is to be divided by.</param>
    public virtual void MultiplyGated(CudaOps ops, DevicePointer x, DevicePointer gateUp, DevicePointer y, int rows, in FusedNormArguments norm)
    {
        Multiply(ops, x, gateUp, ops.Type, rows, accumulate: false, norm);
        ops.SwiGlu.Launch(ops.Stream, gateUp, y, rows, Outputs / 2);
    }

    /// <summary>Multiplies few rows, of x as it is, by weights as they are stored.</summary>
    protected void MultiplyFew(CudaOps ops, DenseProduct product, DevicePointer weights, DevicePointer scales, DevicePointer x, DevicePointer y, int rows, in FusedNormArguments norm)
    {
        product = product with { Bias = Biases.Exists, Norm = norm.Half };
        if (rows <= DenseGemvKernel.MostTokens)
            ops.DenseGemv(product, Outputs, Inputs).Launch(ops.Stream, weights, scales, x, Biases.Single, y, Outputs, Inputs, rows, norm);
        else
            ops.DenseGemm(product, Outputs, rows).Launch(ops.Stream, weights, scales, x, Biases.Single, y, Outputs, Inputs, rows, ops.PartialSums);
    }

    /// <summary>Multiplies many rows by weights of the backend's type: the matrix library.</summary>
    protected void MultiplyMany(CudaOps ops, DevicePointer weights, DevicePointer x, DevicePointer y, ElementType result, int rows, bool accumulate)
    {
        var shape = new MatmulShape(rows, Outputs, Inputs, ops.Type, ops.Type, result, accumulate, Biases.Exists);
        ops.Stream.Matmul(ops.Matmuls[shape], new MatmulOperands(x, weights, y, result == ElementType.F32 ? Biases.Single : Biases.Half));
    }

    /// <summary>Nothing: the arena of the weights is given back as a whole.</summary>
    public override void Dispose()
    {
    }
}

/// <summary>The biases of stacked matrices, [outputs], as each kernel wants them; zeros for a matrix that has none. Null pointers where none has.</summary>
/// <param name="Half">In the backend's type.</param>
/// <param name="Single">In F32.</param>
/// <param name="BFloat">In BF16: of FP8 products with F32 results.</param>
internal readonly record struct CudaBias(DevicePointer Half, DevicePointer Single, DevicePointer BFloat)
{
    /// <summary>Whether there are any.</summary>
    public bool Exists => !Single.IsNull;

    public static CudaBias Load(CudaLoader loader, IReadOnlyList<StoredMatrix> matrices, IReadOnlyList<Tensor?> biases)
    {
        if (biases.All(b => b is null))
            return default;
        var values = new float[matrices.Sum(m => m.Rows)];
        int row = 0;
        for (int i = 0; i < matrices.Count; i++)
        {
            if (biases[i] is { } bias)
                Dequantizer.Dequantize(bias.Type, bias.Bytes, values.AsSpan(row, matrices[i].Rows));
            row += matrices[i].Rows;
        }

        DevicePointer half = Narrowed(loader, loader.Type, values);
        return new CudaBias(half, loader.Upload<float>(values), loader.Type == ElementType.BF16 ? half : Narrowed(loader, ElementType.BF16, values));
    }

    private static DevicePointer Narrowed(CudaLoader loader, ElementType type, float[] values)
    {
        var narrowed = new ushort[values.Length];
        HostRows.Narrow(type, values, narrowed);
        return loader.Upload<ushort>(narrowed);
    }
}

/// <summary>Weights in the backend's 16-bit type, multiplied by the matrix library, or for few rows by our own kernel, which reads them faster. What has no kernel of its own is brought to this when it's loaded.</summary>
internal sealed class DenseLinear(int inputs, int outputs, DevicePointer weights, CudaBias biases) : CudaLinear(inputs, outputs, biases)
{
    public override long ByteCount => (long)Inputs * Outputs * sizeof(ushort);

    /// <summary>[Outputs, Inputs].</summary>
    public DevicePointer Weights { get; } = weights;

    public static unsafe DenseLinear Load(CudaLoader loader, IReadOnlyList<StoredMatrix> matrices, CudaBias biases)
    {
        int inputs = matrices[0].Columns, outputs = matrices.Sum(m => m.Rows);
        long rowBytes = (long)inputs * sizeof(ushort);
        DevicePointer weights = loader.Take(outputs * rowBytes), to = weights;
        foreach (StoredMatrix matrix in matrices)
        {
            if (HostRows.AreStored(matrix, loader.Type))
                loader.Staging?.Upload(to, ((TensorMatrix)matrix).Tensor.Data, matrix.Rows * rowBytes);
            else
                loader.Staging?.Upload(to, matrix.Rows, rowBytes, (first, part) => HostRows.Write(matrix, loader.Type, (int)first, part));
            to += matrix.Rows * rowBytes;
        }

        return new DenseLinear(inputs, outputs, weights, biases);
    }

    public override void Multiply(CudaOps ops, DevicePointer x, DevicePointer y, ElementType result, int rows, bool accumulate, in FusedNormArguments norm = default)
    {
        if (rows <= DenseGemvKernel.MostTokens)
        {
            MultiplyFew(ops, new DenseProduct(ops.Type, ops.Type, result, Accumulate: accumulate), Weights, default, x, y, rows, norm);
            return;
        }

        MultiplyMany(ops, Weights, x, y, result, rows, accumulate);
    }

    public override void MultiplyGated(CudaOps ops, DevicePointer x, DevicePointer gateUp, DevicePointer y, int rows, in FusedNormArguments norm)
    {
        if (rows <= DenseGemvKernel.MostTokens)
            MultiplyFew(ops, new DenseProduct(ops.Type, ops.Type, ops.Type, Gated: true), Weights, default, x, y, rows, norm);
        else
            base.MultiplyGated(ops, x, gateUp, y, rows, norm);
    }
}

/// <summary>
/// E4M3 codes, multiplied by the matrix library with activations quantized as they come: a scale per output and per token, or per 128 x 128
/// block and per 128 values of a token. Few rows are multiplied as they are by our own kernel, which decodes the codes.
/// </summary>
internal sealed class Float8Linear : CudaLinear
{
    private readonly DevicePointer _codes, _scales;
    private readonly MatmulScale _weightScale, _activationScale;

    private Float8Linear(int inputs, int outputs, DevicePointer codes, DevicePointer scales, MatmulScale weightScale, CudaBias biases)
        : base(inputs, outputs, biases)
    {
        (_codes, _scales, _weightScale) = (codes, scales, weightScale);
        _activationScale = weightScale == MatmulScale.Block128 ? MatmulScale.RowGroup128 : weightScale;
    }

    public override long ByteCount => (long)Inputs * Outputs;

    public override MatmulScale InputScale(CudaOps ops, int rows) => rows > ops.MostFewRows(_weightScale) && _activationScale != MatmulScale.Tensor ? _activationScale : MatmulScale.None;

    /// <summary>Takes matrices of 8-bit floats that the library multiplies by on this device; null for others.</summary>
    public static unsafe Float8Linear? TryLoad(CudaLoader loader, IReadOnlyList<StoredMatrix> matrices, CudaBias biases)
    {
        if (!matrices.All(m => m is Float8Matrix))
            return null;
        Float8Matrix[] parts = [.. matrices.Cast<Float8Matrix>()];
        int inputs = parts[0].Columns, outputs = parts.Sum(p => p.Rows);
        if (Scale(parts) is not { } scale || !IsSupported(loader, inputs, outputs, scale))
            return null;

        DevicePointer codes = loader.Take((long)inputs * outputs), to = codes;
        foreach (Float8Matrix part in parts)
        {
            loader.Staging?.Upload(to, part.Codes.Data, (long)part.Rows * inputs);
            to += (long)part.Rows * inputs;
        }

        DevicePointer scales = loader.Upload<float>(scale == MatmulScale.Block128 ? BlockScales(parts) : scale == MatmulScale.Tensor ? [parts[0].Scales.FloatAt(0)] : RowScales(parts));
        loader.ReserveInputs(((long)inputs * loader.Rows) + ((((long)inputs + 127) / 128) * loader.Rows * sizeof(float)) + 256);
        return new Float8Linear(inputs, outputs, codes, scales, scale, biases);

        // The finest that the parts have: per row where the library can, which also holds a scale per tensor.
        MatmulScale? Scale(Float8Matrix[] parts) =>
            parts.All(p => p is { BlockRows: 128, BlockColumns: 128 }) && parts[..^1].All(p => p.Rows % 128 == 0) ? MatmulScale.Block128
            : !parts.All(p => p.BlockColumns >= p.Columns && (p.BlockRows == 1 || p.BlockRows >= p.Rows)) ? null
            : IsSupported(loader, inputs, outputs, MatmulScale.Row) ? MatmulScale.Row
            : parts.Length == 1 && parts[0].BlockRows >= parts[0].Rows ? MatmulScale.Tensor : null;
    }

    public override void Multiply(CudaOps ops, DevicePointer x, DevicePointer y, ElementType result, int rows, bool accumulate, in FusedNormArguments norm = default)
    {
        if (rows <= ops.MostFewRows(_weightScale))
        {
            MultiplyFew(ops, new DenseProduct(ElementType.E4M3, ops.Type, result, _weightScale, accumulate), _codes, _scales, x, y, rows, norm);
            return;
        }

        DevicePointer codes = ops.Inputs, scales = ops.Inputs + DeviceArena.Round((long)Inputs * ops.Rows);
        if (_activationScale == MatmulScale.Tensor)
            ops.TensorScale(Inputs).Launch(ops.Stream, x, scales, rows);
        ops.Quantize(Inputs, _activationScale).Launch(ops.Stream, x, codes, scales, rows);
        MultiplyQuantized(ops, codes, scales, y, result, rows, accumulate);
    }

    /// <summary>As <see cref="Multiply"/>, of E4M3 codes.</summary>
    /// <param name="ops">What computes.</param>
    /// <param name="codes">[rows, Inputs].</param>
    /// <param name="scales">Theirs, as <see cref="InputScale"/> says.</param>
    /// <param name="y">[rows, Outputs].</param>
    /// <param name="result">Type of y: the backend's, or F32.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="accumulate">Add to what y, of F32, holds.</param>
    public void MultiplyQuantized(CudaOps ops, DevicePointer codes, DevicePointer scales, DevicePointer y, ElementType result, int rows, bool accumulate)
    {
        // Block scales come in fours of tokens; the rows beyond are there, and their results are nobody's.
        int tokens = _weightScale == MatmulScale.Block128 ? (rows + 3) / 4 * 4 : rows;
        MatmulShape shape = Shape(tokens, Inputs, Outputs, result, _weightScale, accumulate, Biases.Exists);
        DevicePointer bias = result == ElementType.F32 ? Biases.BFloat : Biases.Half;
        ops.Stream.Matmul(ops.Matmuls[shape], new MatmulOperands(codes, _codes, y, bias, scales, _scales));
    }

    public override void MultiplyGated(CudaOps ops, DevicePointer x, DevicePointer gateUp, DevicePointer y, int rows, in FusedNormArguments norm)
    {
        if (rows <= ops.MostFewRows(_weightScale))
            MultiplyFew(ops, new DenseProduct(ElementType.E4M3, ops.Type, ops.Type, _weightScale, Gated: true), _codes, _scales, x, y, rows, norm);
        else
            base.MultiplyGated(ops, x, gateUp, y, rows, norm);
    }

    private static MatmulShape Shape(int tokens, int inputs, int outputs, ElementType result, MatmulScale weightScale, bool accumulate, bool bias) => new(
        tokens, outputs, inputs, ElementType.E4M3, ElementType.E4M3, result, accumulate, bias, weightScale, weightScale == MatmulScale.Block128 ? MatmulScale.RowGroup128 : weightScale);

    private static bool IsSupported(CudaLoader loader, int inputs, int outputs, MatmulScale scale) =>
        loader.Device.Supports(Shape(8, inputs, outputs, loader.Type, scale, false, false)) && loader.Device.Supports(Shape(8, inputs, outputs, ElementType.F32, scale, true, false));

    private static float[] RowScales(Float8Matrix[] parts) =>
        [.. parts.SelectMany(p => Enumerable.Range(0, p.Rows).Select(row => p.Scales.FloatAt(row / p.BlockRows)))];

    /// <summary>[blocks down, blocks across rounded up to a multiple of 4].</summary>
    private static float[] BlockScales(Float8Matrix[] parts)
    {
        int across = (parts[0].Columns + 127) / 128, stride = (across + 3) / 4 * 4;
        var scales = new List<float>();
        foreach (Float8Matrix part in parts)
        {
            for (int down = 0; down < (part.Rows + 127) / 128; down++)
            {
                for (int i = 0; i < stride; i++)
                    scales.Add(i < across ? part.Scales.FloatAt(((long)down * across) + i) : 0);
            }
        }

        return [.. scales];
    }
}
