using Qwen.Native.Device;

namespace Qwen.Native.Blas;

/// <summary>Every kind of product: all types, scales, biases and sums, whether or not a device computes it. For checks of devices.</summary>
public static class MatmulShapes
{
    /// <summary>The kinds, each with the same sizes.</summary>
    /// <param name="tokens">Rows of x.</param>
    /// <param name="outputs">Rows of w.</param>
    /// <param name="inputs">Columns of both.</param>
    public static IEnumerable<MatmulShape> All(int tokens = 7, int outputs = 256, int inputs = 384)
    {
        ElementType[] results = [ElementType.F32, ElementType.F16, ElementType.BF16];
        (ElementType Weights, ElementType Activations)[] types =
        [
            (ElementType.F32, ElementType.F32), (ElementType.F16, ElementType.F16), (ElementType.BF16, ElementType.BF16),
            (ElementType.E4M3, ElementType.E4M3), (ElementType.E4M3, ElementType.E5M2),
        ];
        return from type in types
               from result in results
               from scale in Scales(type.Weights)
               from accumulate in (bool[])[false, true]
               from bias in (bool[])[false, true]
               select new MatmulShape(tokens, outputs, inputs, type.Weights, type.Activations, result, accumulate, bias, scale.Weights, scale.Activations);
    }

    private static (MatmulScale Weights, MatmulScale Activations)[] Scales(ElementType weights) => weights != ElementType.E4M3
        ? [(MatmulScale.None, MatmulScale.None)]
        : [
            (MatmulScale.None, MatmulScale.None), (MatmulScale.Tensor, MatmulScale.None), (MatmulScale.None, MatmulScale.Tensor),
            (MatmulScale.Tensor, MatmulScale.Tensor), (MatmulScale.Row, MatmulScale.Row), (MatmulScale.RowGroup128, MatmulScale.RowGroup128),
            (MatmulScale.Block128, MatmulScale.RowGroup128), (MatmulScale.RowGroup128, MatmulScale.Block128),
        ];
}
