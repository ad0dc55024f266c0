using System.Text;
using Qwen.Native.Interop;

namespace Qwen.Native.Device;

/// <summary>PTX compiled by the driver.</summary>
internal sealed unsafe class CudaModule : IDeviceModule
{
    private const int LogBytes = 16 << 10;

    private readonly CudaDevice _device;
    private readonly CudaModuleHandle _handle;

    /// <exception cref="CudaException">The compiler refused it; the message has its log and the lines it names.</exception>
    public CudaModule(CudaDevice device, string ptx)
    {
        _device = device;
        byte[] image = new byte[Encoding.UTF8.GetByteCount(ptx) + 1]; // ends with NUL
        Encoding.UTF8.GetBytes(ptx, image);
        byte[] log = new byte[LogBytes];
        fixed (byte* text = image, errors = log)
        {
            JitOption* options = stackalloc JitOption[] { JitOption.ErrorLogBuffer, JitOption.ErrorLogBufferSizeBytes };
            void** values = stackalloc void*[] { errors, (void*)LogBytes }; // the size is passed by value, in the slot
            CuResult result = CudaDriver.ModuleLoadDataEx(out _handle, text, 2, options, values);
            if (result != CuResult.Success)
                throw CudaResults.Failure(result, nameof(CudaDriver.ModuleLoadDataEx), $"the compiler's log:{JitLog.Explain(Encoding.UTF8.GetString(log.AsSpan().TrimEnd((byte)0)), ptx)}");
        }

        _handle.BelongTo(device.Context);
    }

    /// <summary>Percent of a multiprocessor's memory that all kernels ask to be shared memory; -1 leaves it to the driver.</summary>
    internal static int SharedPercent { get; set; } = -1;

    /// <inheritdoc/>
    public IDeviceFunction Function(string entry, int dynamicSharedBytes = 0)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(dynamicSharedBytes);
        _device.Context.MakeCurrent();
        CuResult result = CudaDriver.ModuleGetFunction(out nint function, _handle, entry);
        if (result != CuResult.Success)
            throw CudaResults.Failure(result, nameof(CudaDriver.ModuleGetFunction), $"the module has no entry '{entry}'");
        var resources = new FunctionResources(Read(FunctionAttribute.NumRegs), Read(FunctionAttribute.SharedSizeBytes), Read(FunctionAttribute.LocalSizeBytes));
        if (resources.StaticSharedBytes + (long)dynamicSharedBytes > _device.Info.SharedMemoryPerBlock)
        {
            throw new DeviceException(
                $"kernel '{entry}' asks for {resources.StaticSharedBytes:N0} + {dynamicSharedBytes:N0} bytes of shared memory; a block of {_device.Info.Name} has {_device.Info.SharedMemoryPerBlock:N0}.");
        }

        // The limit belongs to the entry, which others may have asked for with more.
        if (dynamicSharedBytes > Read(FunctionAttribute.MaxDynamicSharedSizeBytes))
            CudaDriver.FuncSetAttribute(function, FunctionAttribute.MaxDynamicSharedSizeBytes, dynamicSharedBytes).Check();

        // A multiprocessor divides its memory into L1 and shared memory anew only when it is empty, so kernels that ask for different parts may not overlap; but all
        // of it as shared memory leaves 28 KB of L1 to loads under way: attention over long contexts took 10% longer with that on an H200.
        CudaDriver.FuncSetAttribute(function, FunctionAttribute.PreferredSharedMemoryCarveout, SharedPercent).Check();
        return new CudaFunction(_device, _handle, function, entry, dynamicSharedBytes, resources);

        int Read(FunctionAttribute attribute)
        {
            CudaDriver.FuncGetAttribute(out int value, attribute, function).Check();
            return value;
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _handle.Dispose();
}

/// <summary>An entry of a module.</summary>
internal sealed class CudaFunction(CudaDevice device, CudaModuleHandle module, nint function, string name, int dynamicSharedBytes, FunctionResources resources) : IDeviceFunction
{
    /// <inheritdoc/>
    public string Name => name;

    /// <inheritdoc/>
    public FunctionResources Resources => resources;

    /// <summary>Dynamic shared memory of its launches.</summary>
    public int DynamicSharedBytes => dynamicSharedBytes;

    /// <summary>CUfunction.</summary>
    public nint Handle
    {
        get
        {
            ObjectDisposedException.ThrowIf(module.IsClosed, module);
            return function;
        }
    }

    /// <inheritdoc/>
    public int BlocksPerMultiprocessor(int threads)
    {
        device.Context.MakeCurrent();
        CudaDriver.OccupancyMaxActiveBlocksPerMultiprocessor(out int blocks, Handle, threads, (nuint)dynamicSharedBytes).Check();
        return blocks;
    }
}
