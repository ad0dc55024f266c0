using System.Diagnostics;
using System.Runtime.CompilerServices;
using Qwen.Native.Device;
using Qwen.Native.Interop;

namespace Qwen.DeviceCheck;

/// <summary>What checks work with: a device, a stream, and the report.</summary>
internal sealed unsafe class CheckSession(IDevice device, Report report) : IDisposable
{
    private readonly Dictionary<ElementType, double> _operationRates = [];
    private double? _copyBandwidth;

    public IDevice Device { get; } = device;

    public IDeviceStream Stream { get; } = device.CreateStream();

    /// <summary>Measured bytes a second, read and written, of a large copy: the bound of what is held back by memory.</summary>
    public double CopyBandwidth => _copyBandwidth ??= Native.Device.CopyBandwidth.Measure(Device);

    /// <summary>Measured operations a second of the matrix library on large squares of a type: the bound of what is held back by arithmetic.</summary>
    public double OperationRate(ElementType type)
    {
        if (_operationRates.TryGetValue(type, out double rate))
            return rate;
        MatmulShape shape = type != ElementType.E4M3 ? LibraryProduct.Square(type) : LibraryProduct.Square(type, MatmulScale.Tensor, MatmulScale.Tensor);
        return _operationRates[type] = LibraryProduct.Operations(shape) / LibraryProduct.Seconds(this, shape);
    }

    /// <summary>Runs a check whole. Whatever goes wrong is reported.</summary>
    /// <param name="check">The check.</param>
    /// <param name="verify">False to time it only.</param>
    /// <returns>False where the device is lost and nothing more can run.</returns>
    public bool Run(ICheck check, bool verify)
    {
        report.Begin(check.Name);
        try
        {
            int failures = report.Failures;
            if (verify || check.EndsDevice)
                Case("verified", () =>
                {
                    check.Verify(this);
                    if (!check.EndsDevice)
                        Stream.Synchronize(); // a late fault belongs to this check
                });
            if (check.EndsDevice)
                return false;
            if (report.Failures == failures)
                Case("timed", () => check.Time(this));
            return true;
        }
        catch (CudaException e) when (e.ContextLost)
        {
            report.Fail("device lost", e.Message);
            return false;
        }
    }

    /// <summary>Runs a part that may fail on its own; only a lost device ends more than the part.</summary>
    public void Case(string name, Action body)
    {
        long start = Stopwatch.GetTimestamp();
        try
        {
            body();
            report.Pass(name, Stopwatch.GetElapsedTime(start));
        }
        catch (CudaException e) when (e.ContextLost)
        {
            throw;
        }
        catch (CheckFailedException e)
        {
            report.Fail(name, e.Message);
        }
#pragma warning disable CA1031 // A fault of any kind in one check is that check's result: the others still have something to say.
        catch (Exception e)
#pragma warning restore CA1031
        {
            report.Fail(name, e.ToString());
        }
    }

    /// <summary>Reports a measured value.</summary>
    /// <param name="name">Of what.</param>
    /// <param name="value">The value.</param>
    /// <param name="unit">Its unit.</param>
    /// <param name="bound">The most that the hardware gives, in the same unit, where that was measured.</param>
    public void Measure(string name, double value, string unit, double bound = 0) => report.Measure(name, value, unit, bound);

    /// <summary>Reports something worth knowing that is no fault.</summary>
    public void Note(string text) => report.Note(text);

    /// <summary>Takes memory with these values in it.</summary>
    public DeviceBuffer Upload<T>(ReadOnlySpan<T> values)
        where T : unmanaged
    {
        long bytes = (long)values.Length * sizeof(T);
        DeviceBuffer buffer = Device.Allocate(bytes);
        fixed (T* from = values)
        {
            Stream.CopyToDevice(buffer.Pointer, from, bytes);
            Stream.Synchronize();
        }

        return buffer;
    }

    /// <summary>Waits for the stream and reads a buffer's first values.</summary>
    public T[] Download<T>(DeviceBuffer buffer, int count)
        where T : unmanaged
    {
        var values = new T[count];
        fixed (T* to = values)
        {
            Stream.CopyToHost(to, buffer.Pointer, (long)count * sizeof(T));
            Stream.Synchronize();
        }

        return values;
    }

    /// <summary>Seconds that work on the stream takes on the device: the median of several runs, after two to warm up.</summary>
    /// <param name="enqueue">Puts the work on the stream.</param>
    /// <param name="repeats">Runs.</param>
    public double Seconds(Action enqueue, int repeats = 9)
    {
        using IDeviceEvent start = Device.CreateEvent(), end = Device.CreateEvent();
        enqueue();
        enqueue();
        var runs = new double[repeats];
        for (int i = 0; i < repeats; i++)
        {
            Stream.Record(start);
            enqueue();
            Stream.Record(end);
            end.Synchronize();
            runs[i] = end.MillisecondsSince(start) * 1e-3;
        }

        Array.Sort(runs);
        return runs[repeats / 2];
    }

    /// <summary>Throws, naming both, unless they are equal.</summary>
    public static void Equal<T>(T expected, T actual, [CallerArgumentExpression(nameof(actual))] string what = "")
    {
        if (!EqualityComparer<T>.Default.Equals(expected, actual))
            throw new CheckFailedException($"{what} is {actual}, not {expected}");
    }

    /// <summary>Throws unless it holds.</summary>
    public static void True(bool condition, string otherwise)
    {
        if (!condition)
            throw new CheckFailedException(otherwise);
    }

    /// <summary>Throws unless the work throws this, and returns what it threw.</summary>
    public static TException Throws<TException>(Action body)
        where TException : Exception
    {
        try
        {
            body();
        }
        catch (TException e)
        {
            return e;
        }

        throw new CheckFailedException($"no {typeof(TException).Name} was thrown");
    }

    public void Dispose() => Stream.Dispose();
}
