using Qwen.Cpu;

namespace Qwen.Benchmarks;

/// <summary>A weight matrix of random bytes whose scales are of ordinary size: subnormals would cost what they do not in a model.</summary>
internal sealed unsafe class RandomMatrix : IDisposable
{
    private readonly NativeBuffer<byte> _memory;

    public RandomMatrix(WeightType type, int rows, int columns)
    {
        long rowBytes = RowBytes(type, columns);
        _memory = new NativeBuffer<byte>(rows * rowBytes);
        new Random(1).NextBytes(_memory.Span);
        byte exponent = type.IsFloat ? (byte)0x3C : (byte)0x1C;
        for (long i = 1; i < _memory.Length; i += 2)
            _memory.Pointer[i] = (byte)(exponent | (_memory.Pointer[i] & 0x83)); // an odd byte is the upper one of any F16 or BF16
        Matrix = new WeightMatrix(type, rows, columns, _memory.Pointer, rowBytes);
    }

    public WeightMatrix Matrix { get; }

    public static long RowBytes(WeightType type, int columns)
    {
        (int blockColumns, int blockBytes) = type switch
        {
            WeightType.F16 or WeightType.BF16 => (1, 2),
            WeightType.F32 => (1, 4),
            WeightType.Q8_0 => (32, 34),
            WeightType.Q4_0 => (32, 18),
            WeightType.Q5_0 => (32, 22),
            WeightType.Q4_K => (256, 144),
            WeightType.Q5_K => (256, 176),
            WeightType.Q6_K => (256, 210),
            WeightType.IQ4_XS => (256, 136),
            WeightType.Int4G128 => (128, 68),
            WeightType.Int8G128 => (128, 132),
            _ => throw new NotSupportedException($"No layout of {type} here."),
        };
        return (long)columns / blockColumns * blockBytes;
    }

    public void Dispose() => _memory.Dispose();
}

/// <summary>Memory of random floats in [-0.5, 0.5).</summary>
internal static class RandomFloats
{
    public static NativeBuffer<float> Make(long count)
    {
        var random = new Random(2);
        NativeBuffer<float> floats = new(count);
        foreach (ref float value in floats.Span)
            value = random.NextSingle() - 0.5f;
        return floats;
    }
}
