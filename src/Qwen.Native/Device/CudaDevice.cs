using System.Runtime.InteropServices;
using System.Text;
using Qwen.Native.Blas;
using Qwen.Native.Interop;

namespace Qwen.Native.Device;

/// <summary>An NVIDIA GPU of compute capability 8.0 or newer, through its driver and cublasLt.</summary>
public sealed unsafe class CudaDevice : IDevice
{
    /// <summary>CUDA 11.4, the first with all that is used of graphs.</summary>
    private const int OldestDriver = 11040;

    private CublasLt? _blas;

    private CudaDevice(CudaContextHandle context, DeviceInfo info, int driverVersion)
    {
        Context = context;
        Info = info;
        DriverVersion = driverVersion;
    }

    /// <inheritdoc/>
    public DeviceInfo Info { get; }

    /// <summary>CUDA version that the driver serves: 13000 for 13.0.</summary>
    public int DriverVersion { get; }

    /// <summary>cublasLt's version: 130000 for 13.0.0.</summary>
    /// <exception cref="DeviceException">There is no cublasLt; the message says what was looked for, and where.</exception>
    public int BlasVersion => Blas.Version;

    /// <inheritdoc/>
    public long FreeMemory
    {
        get
        {
            Context.MakeCurrent();
            CudaDriver.MemGetInfo(out nuint free, out _).Check();
            return (long)free;
        }
    }

    internal CudaContextHandle Context { get; }

    /// <summary>The library, opened when the first product is asked for: kernels alone need only the driver.</summary>
    private CublasLt Blas
    {
        get
        {
            Context.MakeCurrent();
            return _blas ??= new CublasLt(Info.ComputeCapability);
        }
    }

    /// <summary>Programmatic dependent launch: sm_90, and CUDA 12.3 for it to be captured in graphs.</summary>
    internal bool HasDependentLaunch => Info.Major >= 9 && DriverVersion >= 12030;

    /// <summary>How many GPUs the driver shows; <c>CUDA_VISIBLE_DEVICES</c> counts.</summary>
    /// <exception cref="DeviceException">There is no driver, or none that works; the message says which.</exception>
    public static int Count
    {
        get
        {
            CudaDriver.Init(0).Check();
            CudaDriver.DeviceGetCount(out int count).Check();
            return count;
        }
    }

    /// <summary>Opens a GPU.</summary>
    /// <param name="index">Its number, from 0.</param>
    /// <exception cref="DeviceException">There is none of that number, it or its driver is too old, or there is no driver; the message says which.</exception>
    public static CudaDevice Open(int index = 0)
    {
        int count = Count;
        if (index < 0 || index >= count)
            throw new DeviceException($"There is no CUDA device {index}: the driver shows {count}.");
        CudaDriver.DeviceGet(out int device, index).Check();
        CudaDriver.DriverGetVersion(out int driverVersion).Check();
        DeviceInfo info = Describe(device, driverVersion);
        if (info.Major < 8)
            throw new DeviceException($"CUDA device {index}, {info.Name}, has compute capability {info.Major}.{info.Minor}; 8.0 is needed.");
        if (driverVersion < OldestDriver)
            throw new DeviceException($"The driver serves CUDA {driverVersion / 1000}.{driverVersion % 1000 / 10}; {OldestDriver / 1000}.{OldestDriver % 1000 / 10} is needed.");
        CudaContextHandle context = CudaContextHandle.Retain(device);
        try
        {
            return new CudaDevice(context, info, driverVersion);
        }
        catch
        {
            context.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public DeviceBuffer Allocate(long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bytes);
        Context.MakeCurrent();
        CuResult result = CudaDriver.MemAlloc(out ulong address, (nuint)bytes);
        if (result == CuResult.OutOfMemory)
            throw new DeviceOutOfMemoryException(bytes, FreeMemory);
        result.Check(nameof(CudaDriver.MemAlloc));
        return new CudaBuffer(Context, address, bytes);
    }

    /// <inheritdoc/>
    public PinnedBuffer AllocatePinned(long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bytes);
        Context.MakeCurrent();
        CudaDriver.MemHostAlloc(out void* address, (nuint)bytes, HostAllocFlags.Portable).Check();
        return new CudaPinnedBuffer(Context, address, bytes);
    }

    /// <inheritdoc/>
    public IDeviceModule LoadModule(string ptx)
    {
        Context.MakeCurrent();
        return new CudaModule(this, ptx);
    }

    /// <inheritdoc/>
    public IDeviceStream CreateStream()
    {
        Context.MakeCurrent();
        return new CudaStream(this);
    }

    /// <inheritdoc/>
    public IDeviceEvent CreateEvent()
    {
        Context.MakeCurrent();
        return new CudaEvent(Context);
    }

    /// <inheritdoc/>
    public bool Supports(in MatmulShape shape) => Blas.WhyNot(shape) is null;

    /// <inheritdoc/>
    public IMatmul CreateMatmul(in MatmulShape shape) => Blas.Prepare(shape);

    /// <inheritdoc/>
    public void Dispose()
    {
        if (Context.IsClosed)
            return;
        _ = Context.TryMakeCurrent(); // a lost context can't be made current, but must still be let go
        _blas?.Dispose();
        Context.Dispose();
    }

    /// <summary>Reads what a CUdevice is.</summary>
    internal static DeviceInfo Describe(int device, int driverVersion)
    {
        Span<byte> name = stackalloc byte[256];
        fixed (byte* text = name)
            CudaDriver.DeviceGetName(text, name.Length, device).Check();
        CudaDriver.DeviceTotalMem(out nuint bytes, device).Check();
        return new DeviceInfo(
            Encoding.UTF8.GetString(name[..name.IndexOf((byte)0)]), Read(DeviceAttribute.ComputeCapabilityMajor), Read(DeviceAttribute.ComputeCapabilityMinor),
            PtxVersions.Of(driverVersion), Read(DeviceAttribute.MultiprocessorCount), Read(DeviceAttribute.MaxSharedMemoryPerBlockOptin),
            Read(DeviceAttribute.MaxSharedMemoryPerMultiprocessor), Read(DeviceAttribute.MaxThreadsPerMultiprocessor), Read(DeviceAttribute.L2CacheSize), (long)bytes);

        int Read(DeviceAttribute attribute)
        {
            CudaDriver.DeviceGetAttribute(out int value, attribute, device).Check();
            return value;
        }
    }
}
