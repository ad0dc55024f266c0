using System.Runtime.CompilerServices;
using Qwen.Native.Blas;
using Qwen.Native.Interop;

namespace Qwen.Native.Device;

/// <summary>A stream of a real device. It does not wait for the legacy default stream. Its matrix products share one workspace.</summary>
internal sealed unsafe class CudaStream : IDeviceStream
{
    /// <summary>Most parameters of a launch: the 4 KB that every PTX version allows.</summary>
    private const int MaxArguments = 512;

    private readonly CudaDevice _device;
    private readonly CudaContextHandle _context;
    private readonly CudaStreamHandle _handle;
    private DeviceBuffer? _workspace;
    private bool _isCapturing;

    public CudaStream(CudaDevice device)
    {
        _device = device;
        _context = device.Context;
        CudaDriver.StreamCreate(out _handle, StreamFlags.NonBlocking).Check();
        _handle.BelongTo(_context);
    }

    /// <inheritdoc/>
    public void CopyToDevice(DevicePointer to, void* from, long bytes)
    {
        _context.MakeCurrent();
        CudaDriver.MemcpyHtoDAsync(to.Address, from, checked((nuint)bytes), _handle).Check();
    }

    /// <inheritdoc/>
    public void CopyToHost(void* to, DevicePointer from, long bytes)
    {
        _context.MakeCurrent();
        CudaDriver.MemcpyDtoHAsync(to, from.Address, checked((nuint)bytes), _handle).Check();
    }

    /// <inheritdoc/>
    public void Copy(DevicePointer to, DevicePointer from, long bytes)
    {
        _context.MakeCurrent();
        CudaDriver.MemcpyDtoDAsync(to.Address, from.Address, checked((nuint)bytes), _handle).Check();
    }

    /// <inheritdoc/>
    public void Fill(DevicePointer to, byte value, long bytes)
    {
        _context.MakeCurrent();
        CudaDriver.MemsetD8Async(to.Address, value, checked((nuint)bytes), _handle).Check();
    }

    /// <inheritdoc/>
    [SkipLocalsInit]
    public void Launch(IDeviceFunction function, Dim3 grid, Dim3 block, ReadOnlySpan<ulong> arguments, bool overlapPrevious = false)
    {
        var kernel = (CudaFunction)function;
        ArgumentOutOfRangeException.ThrowIfGreaterThan(arguments.Length, MaxArguments);
        _context.MakeCurrent();
        void** parameters = stackalloc void*[arguments.Length];
        CuResult result;
        fixed (ulong* slots = arguments)
        {
            for (int i = 0; i < arguments.Length; i++)
                parameters[i] = slots + i; // 32-bit parameters are read from the low half: the hosts of these devices are little-endian
            result = overlapPrevious && _device.HasDependentLaunch
                ? LaunchDependent(kernel, grid, block, parameters)
                : CudaDriver.LaunchKernel(
                    kernel.Handle, (uint)grid.X, (uint)grid.Y, (uint)grid.Z, (uint)block.X, (uint)block.Y, (uint)block.Z, (uint)kernel.DynamicSharedBytes, _handle, parameters, null);
        }

        if (result != CuResult.Success)
            throw CudaResults.Failure(result, nameof(CudaDriver.LaunchKernel), $"kernel '{kernel.Name}', grid {grid}, block {block}, {kernel.DynamicSharedBytes:N0} bytes of dynamic shared memory, {kernel.Resources}");
    }

    /// <inheritdoc/>
    public void Matmul(IMatmul matmul, in MatmulOperands operands)
    {
        _context.MakeCurrent();
        ((CublasLtMatmul)matmul).Run(operands, Workspace(), _handle);
    }

    /// <inheritdoc/>
    public void Record(IDeviceEvent mark)
    {
        _context.MakeCurrent();
        CudaDriver.EventRecord(((CudaEvent)mark).Handle, _handle).Check();
    }

    /// <inheritdoc/>
    public void Wait(IDeviceEvent mark)
    {
        _context.MakeCurrent();
        CudaDriver.StreamWaitEvent(_handle, ((CudaEvent)mark).Handle, 0).Check();
    }

    /// <inheritdoc/>
    public void BeginCapture()
    {
        _context.MakeCurrent();
        Workspace(); // can't be allocated any more once it has begun
        CudaDriver.StreamBeginCapture(_handle, CaptureMode.ThreadLocal).Check();
        _isCapturing = true;
    }

    /// <inheritdoc/>
    public IDeviceGraph EndCapture()
    {
        _context.MakeCurrent();
        _isCapturing = false;
        CudaDriver.StreamEndCapture(_handle, out CudaGraphHandle graph).Check();
        graph.BelongTo(_context);
        using (graph)
            return new CudaGraph(_context, graph, _handle);
    }

    /// <inheritdoc/>
    public void Launch(IDeviceGraph graph)
    {
        _context.MakeCurrent();
        CudaDriver.GraphLaunch(((CudaGraph)graph).Handle, _handle).Check();
    }

    /// <inheritdoc/>
    public void Synchronize()
    {
        _context.MakeCurrent();
        CudaDriver.StreamSynchronize(_handle).Check();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        // A capture that an exception broke off would keep this thread from allocating for ever. What it had, and what it says, are of no use.
        if (_isCapturing && _context.TryMakeCurrent() == CuResult.Success)
        {
            _ = CudaDriver.StreamEndCapture(_handle, out CudaGraphHandle graph);
            graph.Dispose();
            _isCapturing = false;
        }

        _handle.Dispose(); // the driver lets what is under way end
        _workspace?.Dispose(); // cuMemFree waits for it
    }

    private CuResult LaunchDependent(CudaFunction kernel, Dim3 grid, Dim3 block, void** parameters)
    {
        var attribute = new LaunchAttribute { Id = LaunchAttributeId.ProgrammaticStreamSerialization, Value = 1 };
        var config = new LaunchConfig
        {
            GridX = (uint)grid.X,
            GridY = (uint)grid.Y,
            GridZ = (uint)grid.Z,
            BlockX = (uint)block.X,
            BlockY = (uint)block.Y,
            BlockZ = (uint)block.Z,
            SharedBytes = (uint)kernel.DynamicSharedBytes,
            Stream = _handle.DangerousGetHandle(),
            Attributes = &attribute,
            AttributeCount = 1,
        };
        CuResult result = CudaDriver.LaunchKernelEx(&config, kernel.Handle, parameters, null);
        GC.KeepAlive(_handle);
        return result;
    }

    private DevicePointer Workspace() => (_workspace ??= _device.Allocate(CublasLt.WorkspaceBytes)).Pointer;
}
