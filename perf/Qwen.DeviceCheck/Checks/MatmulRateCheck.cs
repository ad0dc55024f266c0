using Qwen.Native.Device;

namespace Qwen.DeviceCheck.Checks;

/// <summary>How fast the library multiplies: large squares, which arithmetic bounds, and few tokens, which memory bounds.</summary>
internal sealed class MatmulRateCheck : ICheck
{
    private const int Large = 8192;

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
            foreach (int tokens in (int[])[1, 4, 16, 64, 256, 1024, Large])
            {
                var shape = new MatmulShape(tokens, Large, Large, type, type, type == ElementType.E4M3 ? ElementType.BF16 : type, WeightScale: weights, ActivationScale: activations);
                if (session.Device.Supports(shape))
                    session.Case($"{type} {weights}, {tokens} tokens", () => Rate(session, shape));
            }
        }
    }

    private static void Rate(CheckSession session, MatmulShape shape)
    {
        using DeviceBuffer x = Random(session, shape.Activations, (long)shape.Tokens * shape.Inputs), w = Random(session, shape.Weights, (long)shape.Outputs * shape.Inputs);
        using DeviceBuffer y = session.Device.Allocate((long)shape.Tokens * shape.Outputs * shape.Result.Bytes());
        using DeviceBuffer scales = session.Upload<float>([.. Enumerable.Repeat(1f, Large * (Large / 128))]);
        using IMatmul matmul = session.Device.CreateMatmul(shape);
        DevicePointer scale = shape.WeightScale == MatmulScale.None ? default : scales.Pointer;
        var operands = new MatmulOperands(x.Pointer, w.Pointer, y.Pointer, XScale: scale, WScale: scale);
        double seconds = session.Seconds(() => session.Stream.Matmul(matmul, operands), repeats: shape.Tokens >= 1024 ? 9 : 31);
        double multiplications = 2.0 * shape.Tokens * shape.Outputs * shape.Inputs;
        string name = $"{shape.Weights} {shape.WeightScale} x {shape.ActivationScale}, {shape.Tokens} x {shape.Outputs} x {shape.Inputs}";
        session.Measure(name, multiplications / seconds / 1e12, "TFLOP/s");
        if (shape.Tokens <= 64) // weights of 64 MiB and more: larger than the caches of today's devices
            session.Measure(name, w.ByteCount / seconds / 1e9, "GB/s", session.CopyBandwidth / 1e9);
    }

    /// <summary>Random values, since zeros draw less power and run faster: a random megabyte over and over.</summary>
    private static DeviceBuffer Random(CheckSession session, ElementType type, long count)
    {
        long bytes = count * type.Bytes();
        byte[] some = SmallFloats.Random(new Random(5), type, (int)Math.Min(count, 1 << 20)).Bytes;
        DeviceBuffer buffer = session.Device.Allocate(bytes);
        using DeviceBuffer block = session.Upload<byte>(some);
        for (long at = 0; at < bytes; at += some.Length)
            session.Stream.Copy(buffer.Pointer + at, block.Pointer, Math.Min(some.Length, bytes - at));
        session.Stream.Synchronize();
        return buffer;
    }
}
