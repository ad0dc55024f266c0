using System.Runtime.CompilerServices;

namespace Qwen.Runtime.Formats;

/// <summary>Puts the matrix of a module together from the tensors a checkpoint has for it, and checks the type, shape and values of each.</summary>
/// <remarks>The tensors say how a module is stored: <c>qweight</c>, a <c>weight</c> in FP8 with its scale, or a plain <c>weight</c>. The configuration has to agree.</remarks>
internal sealed unsafe class StoredMatrixReader(Checkpoint checkpoint, QuantizationConfig? quantization)
{
    /// <summary>The matrix [rows, columns] of a module.</summary>
    /// <exception cref="ModelFormatException">A tensor is missing, or is not what the module's size and the configuration ask for.</exception>
    public StoredMatrix Read(string module, int rows, int columns)
    {
        if (checkpoint.Tensors.TryGetValue(module + ".qweight", out Tensor? codes))
            return ReadGroups(module, codes, rows, columns);
        Tensor weight = checkpoint.Require(module + ".weight");
        CheckShape(weight, rows, columns);
        return weight.Type is TensorType.F8_E4M3 ? ReadFloat8(module, weight) : new TensorMatrix(weight);
    }

    /// <summary>Checks the shape of a tensor.</summary>
    public static void CheckShape(Tensor tensor, params ReadOnlySpan<long> shape)
    {
        if (!tensor.Shape.AsSpan().SequenceEqual(shape))
            throw Error(tensor, $"has shape {Text(tensor.Shape.AsSpan())} where the model's hyperparameters ask for {Text(shape)}");
    }

    private GroupQuantizedMatrix ReadGroups(string module, Tensor codes, int rows, int columns)
    {
        QuantizationConfig config = Agreeing(module, codes, QuantizationKind.Awq, QuantizationKind.Gptq);
        int perWord = 32 / config.Bits, groupSize = config.GroupSize < 0 ? columns : config.GroupSize;
        int groups = (columns + groupSize - 1) / groupSize;
        if (rows % perWord != 0 || (config.Kind == QuantizationKind.Gptq && columns % perWord != 0))
            throw Error(codes, $"is a matrix of {rows} by {columns}, which do not fill words of {perWord} codes");
        CheckType(codes, TensorType.I32);
        if (config.Kind == QuantizationKind.Awq)
            CheckShape(codes, columns, rows / perWord);
        else
            CheckShape(codes, columns / perWord, rows);

        Tensor scales = checkpoint.Require(module + ".scales");
        CheckType(scales, TensorType.F16, TensorType.BF16, TensorType.F32);
        CheckShape(scales, groups, rows);
        if (checkpoint.Tensors.TryGetValue(module + ".qzeros", out Tensor? zeros))
        {
            CheckType(zeros, TensorType.I32);
            CheckShape(zeros, groups, rows / perWord);
        }
        else if (config.Kind == QuantizationKind.Gptq || config.HasZeroPoints)
        {
            throw Error(codes, $"has no '{module}.qzeros' beside it");
        }

        return new GroupQuantizedMatrix(module, config, rows, columns, codes, scales, zeros, Groups(module, config, codes, columns, groupSize, groups));
    }

    /// <summary>g_idx, checked; null where there is none or it says what holds anyway.</summary>
    private int[]? Groups(string module, QuantizationConfig config, Tensor codes, int columns, int groupSize, int groups)
    {
        if (config.Kind == QuantizationKind.Awq)
            return null;
        if (!checkpoint.Tensors.TryGetValue(module + ".g_idx", out Tensor? index))
            return config.DescAct ? throw Error(codes, $"has no '{module}.g_idx' beside it, though quantization_config.desc_act is true") : null;
        CheckType(index, TensorType.I32);
        CheckShape(index, columns);
        var groupOf = new int[columns];
        bool isPlain = true;
        for (int c = 0; c < columns; c++)
        {
            int group = Unsafe.ReadUnaligned<int>(index.Data + ((long)c * sizeof(int)));
            if ((uint)group >= (uint)groups)
                throw Error(index, $"has the group {group} at {c}; there are {groups}");
            groupOf[c] = group;
            isPlain &= group == c / groupSize;
        }

        return isPlain ? null : groupOf;
    }

    private Float8Matrix ReadFloat8(string module, Tensor codes)
    {
        QuantizationConfig config = Agreeing(module, codes, QuantizationKind.Float8);
        int rows = (int)codes.Shape[0], columns = (int)codes.Shape[1];
        if (!checkpoint.Tensors.TryGetValue(module + ".weight_scale_inv", out Tensor? scales) && !checkpoint.Tensors.TryGetValue(module + ".weight_scale", out scales))
            throw Error(codes, $"is FP8 and has neither '{module}.weight_scale_inv' nor '{module}.weight_scale' beside it");
        CheckType(scales, TensorType.F32, TensorType.F16, TensorType.BF16);
        if (config.Block is { } block)
        {
            CheckShape(scales, (rows + block.Rows - 1) / block.Rows, (columns + block.Columns - 1) / block.Columns);
            return new Float8Matrix(codes, scales, block.Rows, block.Columns);
        }

        ReadOnlySpan<long> shape = scales.Shape.AsSpan();
        if (shape is [] or [1] or [1, 1])
            return new Float8Matrix(codes, scales, rows, columns);
        if (shape.SequenceEqual([rows]) || shape.SequenceEqual([rows, 1]))
            return new Float8Matrix(codes, scales, 1, columns);
        throw Error(scales, $"has shape {Text(shape)}, which is neither one scale nor one for each of the {rows} rows, and quantization_config names no block");
    }

    /// <summary>The configuration, if it is of one of these kinds and does not say that the module stayed dense.</summary>
    private QuantizationConfig Agreeing(string module, Tensor tensor, params ReadOnlySpan<QuantizationKind> kinds)
    {
        if (quantization is null)
            throw Error(tensor, "is quantized, but config.json has no quantization_config");
        if (!kinds.Contains(quantization.Kind))
            throw Error(tensor, $"is not what quantization_config's method {quantization.Method} stores");
        if (quantization.IsUnconverted(module))
            throw Error(tensor, "is quantized, but quantization_config lists its module as not converted");
        return quantization;
    }

    private static void CheckType(Tensor tensor, params ReadOnlySpan<TensorType> types)
    {
        if (!types.Contains(tensor.Type))
            throw Error(tensor, $"is stored as {tensor.Type} where {string.Join(" or ", types.ToArray())} is expected");
    }

    private static string Text(ReadOnlySpan<long> shape) => $"[{string.Join(", ", shape.ToArray())}]";

    private static ModelFormatException Error(Tensor tensor, string what) => new(tensor.File, $"tensor '{tensor.Name}' {what}");
}
