using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Tests.Emulation;

namespace Qwen.Native.Tests.Kernels;

/// <summary>The emulated device, with a cache of kernels, typed buffers and a random number generator whose seed failures name.</summary>
internal sealed class KernelMachine : IDisposable
{
    private readonly Machine _machine;

    /// <param name="computeCapability">Of the device.</param>
    /// <param name="seed">Of the random numbers; null for a new one.</param>
    /// <param name="multiprocessors">Of the device; null for the usual number.</param>
    public KernelMachine(int computeCapability = 90, int? seed = null, int? multiprocessors = null)
    {
        _machine = new Machine(computeCapability, multiprocessors);
        Cache = new KernelCache(_machine.Device);
        Seed = seed ?? System.Random.Shared.Next();
        Random = new Random(Seed);
    }

    public KernelCache Cache { get; }

    public IDeviceStream Stream => _machine.Stream;

    public int Seed { get; }

    public Random Random { get; }

    /// <summary>Normally distributed values, rounded to a type.</summary>
    public float[] Values(ElementType type, int count, double deviation = 1)
    {
        var values = new float[count];
        for (int i = 0; i < count; i++)
            values[i] = TypedValues.Round(type, (float)(deviation * Math.Sqrt(-2 * Math.Log(1 - Random.NextDouble())) * Math.Cos(2 * Math.PI * Random.NextDouble())));
        return values;
    }

    public DeviceBuffer Buffer(ElementType type, ReadOnlySpan<float> values) => _machine.Buffer<byte>(TypedValues.ToBytes(type, values));

    public DeviceBuffer Buffer<T>(params ReadOnlySpan<T> values)
        where T : unmanaged => _machine.Buffer(values);

    /// <summary>Memory that nobody has written.</summary>
    public DeviceBuffer Empty(ElementType type, int count) => _machine.Buffer((long)count * type.Bytes());

    public float[] Read(ElementType type, DeviceBuffer buffer) => TypedValues.FromBytes(type, _machine.Read<byte>(buffer));

    public T[] Read<T>(DeviceBuffer buffer)
        where T : unmanaged => _machine.Read<T>(buffer);

    /// <summary>Compares, to a fraction of the larger of a value and the least size given.</summary>
    public void AssertClose(ReadOnlySpan<float> expected, ReadOnlySpan<float> actual, float tolerance, float least = 1e-3f, string what = "")
    {
        Assert.Equal(expected.Length, actual.Length);
        for (int i = 0; i < expected.Length; i++)
        {
            bool close = expected[i] == actual[i] || Math.Abs(expected[i] - actual[i]) <= tolerance * Math.Max(Math.Abs(expected[i]), least) || (float.IsNaN(expected[i]) && float.IsNaN(actual[i]));
            Assert.True(close, $"seed {Seed}: {what}[{i}] of {expected.Length} is {actual[i]:g9}, not {expected[i]:g9}.");
        }
    }

    public void AssertEqual<T>(ReadOnlySpan<T> expected, ReadOnlySpan<T> actual, string what = "")
        where T : unmanaged, IEquatable<T>
    {
        Assert.Equal(expected.Length, actual.Length);
        int at = expected.CommonPrefixLength(actual);
        Assert.True(at == expected.Length, $"seed {Seed}: {what}[{at}] of {expected.Length} is {(at < actual.Length ? actual[at] : default)}, not {(at < expected.Length ? expected[at] : default)}.");
    }

    public void Dispose()
    {
        Cache.Dispose();
        _machine.Dispose();
    }
}
