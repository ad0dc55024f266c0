using BenchmarkDotNet.Attributes;
using Qwen.Emulation;
using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.Benchmarks;

/// <summary>How fast the tests' emulated device is: the products of one token of the demo model (4 layers, hidden 256, vocabulary 2048).</summary>
[ShortRunJob]
public class EmulatedDeviceBenchmarks
{
    // outputs, inputs, times a token
    private static readonly (int Outputs, int Inputs, int Times)[] _products = [(512, 256, 4), (256, 256, 4), (1536, 256, 4), (256, 768, 4), (2048, 256, 1)];

    private readonly List<IDisposable> _owned = [];
    private readonly List<Action> _packed = [];
    private readonly List<Action> _dense = [];
    private EmulatedDevice _device = null!;
    private IDeviceStream _stream = null!;

    [GlobalSetup]
    public void Setup()
    {
        _device = Own(new EmulatedDevice(90));
        _stream = Own(_device.CreateStream());
        KernelCache cache = Own(new KernelCache(_device));
        PackedProduct product = new(new PackedFormat(4, 128, PackedOffset.ZeroPoint), ElementType.F16, ElementType.F32);
        foreach ((int outputs, int inputs, int times) in _products)
        {
            PackedMatrix matrix = new(outputs, inputs, product.Format);
            PackedGemvKernel kernel = new(cache, product, matrix);
            DevicePointer w = Filled(matrix.ByteCount), x = Filled(inputs * 2), y = Filled(outputs * 4), dense = Filled((long)outputs * inputs * 2);
            IMatmul matmul = Own(_device.CreateMatmul(new MatmulShape(1, outputs, inputs, ElementType.F16, ElementType.F16, ElementType.F32)));
            for (int i = 0; i < times; i++)
            {
                _packed.Add(() => kernel.Launch(_stream, matrix, w, x, default, y, 1));
                _dense.Add(() => _stream.Matmul(matmul, new MatmulOperands(x, dense, y)));
            }
        }
    }

    [GlobalCleanup]
    public void Cleanup()
    {
        for (int i = _owned.Count - 1; i >= 0; i--)
            _owned[i].Dispose();
    }

    /// <summary>Int4 products as PTX.</summary>
    [Benchmark]
    public void Int4Kernels() => _packed.ForEach(launch => launch());

    /// <summary>F16 products by the emulated library.</summary>
    [Benchmark]
    public void LibraryProducts() => _dense.ForEach(launch => launch());

    /// <summary>Warp instructions of <see cref="Int4Kernels"/>, for the column beside it.</summary>
    public long WarpInstructions()
    {
        long before = _device.Statistics.WarpInstructions;
        Int4Kernels();
        return _device.Statistics.WarpInstructions - before;
    }

    private DevicePointer Filled(long bytes)
    {
        DeviceBuffer buffer = Own(_device.Allocate(bytes));
        _stream.Fill(buffer.Pointer, 0x11, bytes);
        return buffer.Pointer;
    }

    private T Own<T>(T owned)
        where T : IDisposable
    {
        _owned.Add(owned);
        return owned;
    }
}
