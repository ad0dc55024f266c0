using Qwen.Native.Device;

namespace Qwen.DeviceCheck.Checks;

/// <summary>How fast the library multiplies: large squares, which arithmetic bounds, and few tokens, which memory bounds.</summary>
internal sealed class MatmulRateCheck : ICheck
{
    private static readonly (ElementType Type, MatmulScale Weights, MatmulScale Activations)[] Kinds =
    [
        (ElementType.BF16, MatmulScale.None, MatmulScale.None),
        (ElementType.F16, MatmulScale.None, MatmulScale.None),
        (ElementType.E4M3, MatmulScale.Tensor, MatmulScale.Tensor),
        (ElementType.E4M3, MatmulScale.Row, MatmulScale.Row),
        (ElementType.E4M3, MatmulScale.Block128, MatmulScale.RowGroup128),
    ];

    public string Name => "matmul rate";

    public void Verify(CheckSession session)
    {
    }

    public void Time(CheckSession session)
    {
        foreach ((ElementType type, MatmulScale weights, MatmulScale activations) in Kinds)
        {
            foreach (int tokens in (int[])[1, 4, 16, 64, 256, 1024, 8192])
            {
                MatmulShape shape = LibraryProduct.Square(type, weights, activations, tokens);
                if (session.Device.Supports(shape))
                    session.Case($"{type} {weights}, {tokens} tokens", () => Rate(session, shape));
            }
        }
    }

    private static void Rate(CheckSession session, MatmulShape shape)
    {
        double seconds = LibraryProduct.Seconds(session, shape);
        string name = $"{shape.Weights} {shape.WeightScale} x {shape.ActivationScale}, {shape.Tokens} x {shape.Outputs} x {shape.Inputs}";
        session.Measure(name, LibraryProduct.Operations(shape) / seconds / 1e12, "TFLOP/s");
        if (shape.Tokens <= 64) // weights of 64 MiB and more: larger than the caches of today's devices
            session.Measure(name, (double)shape.Outputs * shape.Inputs * shape.Weights.Bytes() / seconds / 1e9, "GB/s", session.CopyBandwidth / 1e9);
    }
}
