using Qwen.Native.Device;

namespace Qwen.DeviceCheck;

/// <summary>A product of the matrix library on random operands.</summary>
internal static class LibraryProduct
{
    private const int Large = 8192;

    /// <summary>Seconds that it takes.</summary>
    public static double Seconds(CheckSession session, in MatmulShape shape)
    {
        using DeviceBuffer x = Random(session, shape.Activations, (long)shape.Tokens * shape.Inputs), w = Random(session, shape.Weights, (long)shape.Outputs * shape.Inputs);
        using DeviceBuffer y = session.Device.Allocate((long)shape.Tokens * shape.Outputs * shape.Result.Bytes());
        using DeviceBuffer scales = session.Upload<float>([.. Enumerable.Repeat(1f, Large * (Large / 128))]);
        using IMatmul matmul = session.Device.CreateMatmul(shape);
        DevicePointer scale = shape.WeightScale == MatmulScale.None ? default : scales.Pointer;
        var operands = new MatmulOperands(x.Pointer, w.Pointer, y.Pointer, XScale: scale, WScale: scale);
        return session.Seconds(() => session.Stream.Matmul(matmul, operands), repeats: shape.Tokens >= 1024 ? 9 : 31);
    }

    /// <summary>Multiplications and additions of a product.</summary>
    public static double Operations(in MatmulShape shape) => 2.0 * shape.Tokens * shape.Outputs * shape.Inputs;

    /// <summary>The product of large squares whose rate is a type's: what bounds products of many tokens.</summary>
    public static MatmulShape Square(ElementType type, MatmulScale weights = MatmulScale.None, MatmulScale activations = MatmulScale.None, int tokens = Large) =>
        new(tokens, Large, Large, type, type, type == ElementType.E4M3 ? ElementType.BF16 : type, WeightScale: weights, ActivationScale: activations);

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
