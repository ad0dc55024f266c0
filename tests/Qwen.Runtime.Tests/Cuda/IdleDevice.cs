using System.Runtime.InteropServices;
using Qwen.Native.Device;

namespace Qwen.Runtime.Tests.Cuda;

/// <summary>A device that takes every call and computes nothing: what is left is the host's work. Memory it gives is the host's, all zeros.</summary>
internal sealed class IdleDevice : IDevice, IDeviceStream, IDeviceEvent, IDeviceModule, IDeviceFunction, IDeviceGraph
{
    public DeviceInfo Info { get; } = new("idle", 9, 0, 84, 8, 227 << 10, 228 << 10, 2048, 32 << 20, 8L << 30);

    public long FreeMemory => Info.MemoryBytes;

    /// <summary>Graphs that ran.</summary>
    public int Replays { get; private set; }

    public string Name => "idle";

    public FunctionResources Resources => new(32, 0, 0);

    public bool IsDone => true;

    public int Nodes => 1;

    public DeviceBuffer Allocate(long bytes) => new HostBuffer(bytes);

    public PinnedBuffer AllocatePinned(long bytes) => new HostPinnedBuffer(bytes);

    public IDeviceModule LoadModule(string ptx) => this;

    public IDeviceFunction Function(string entry, int dynamicSharedBytes = 0) => this;

    public IDeviceStream CreateStream() => this;

    public IDeviceEvent CreateEvent() => this;

    public bool Supports(in MatmulShape shape) => true;

    public IMatmul CreateMatmul(in MatmulShape shape) => new IdleMatmul(shape);

    public int BlocksPerMultiprocessor(int threads) => 1;

    public unsafe void CopyToDevice(DevicePointer to, void* from, long bytes)
    {
    }

    public unsafe void CopyToHost(void* to, DevicePointer from, long bytes)
    {
    }

    public void Copy(DevicePointer to, DevicePointer from, long bytes)
    {
    }

    public void Fill(DevicePointer to, byte value, long bytes)
    {
    }

    public void Launch(IDeviceFunction function, Dim3 grid, Dim3 block, ReadOnlySpan<ulong> arguments, bool overlapPrevious = false)
    {
    }

    public void Matmul(IMatmul matmul, in MatmulOperands operands)
    {
    }

    public void Record(IDeviceEvent mark)
    {
    }

    public void Wait(IDeviceEvent mark)
    {
    }

    public void BeginCapture()
    {
    }

    public IDeviceGraph EndCapture() => this;

    public void Launch(IDeviceGraph graph) => Replays++;

    public void Synchronize()
    {
    }

    public float MillisecondsSince(IDeviceEvent earlier) => 1;

    public void Dispose()
    {
    }

    private sealed record IdleMatmul(MatmulShape Shape) : IMatmul
    {
        public void Dispose()
        {
        }
    }

    private sealed unsafe class HostBuffer(long bytes) : DeviceBuffer(new DevicePointer((ulong)NativeMemory.AlignedAlloc((nuint)bytes, 256)), bytes)
    {
        protected override bool ReleaseHandle()
        {
            NativeMemory.AlignedFree((void*)handle);
            return true;
        }
    }

    private sealed unsafe class HostPinnedBuffer(long bytes) : PinnedBuffer(NativeMemory.AllocZeroed((nuint)bytes), bytes)
    {
        protected override bool ReleaseHandle()
        {
            NativeMemory.Free((void*)handle);
            return true;
        }
    }
}
