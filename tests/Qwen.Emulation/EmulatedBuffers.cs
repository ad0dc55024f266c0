using System.Runtime.InteropServices;
using Qwen.Emulation.Memory;
using Qwen.Native.Device;

namespace Qwen.Emulation;

/// <summary>Device memory. Its address stays unused after it was given back.</summary>
internal sealed class EmulatedBuffer(EmulatedDevice device, Allocation allocation) : DeviceBuffer(new DevicePointer(allocation.Start), allocation.Bytes)
{
    protected override bool ReleaseHandle()
    {
        if (!device.IsDisposed)
            device.Memory.Free(allocation);
        return true;
    }
}

/// <summary>Host memory between guards, whose damage is told at the end.</summary>
internal sealed unsafe class EmulatedPinnedBuffer(EmulatedDevice device, long bytes) : PinnedBuffer(Guarded(bytes), bytes)
{
    private const int Guard = 256;
    private const byte Mark = 0xa5;

    protected override bool ReleaseHandle()
    {
        byte* start = (byte*)handle - Guard;
        bool damaged = new Span<byte>(start, Guard).ContainsAnyExcept(Mark) || new Span<byte>((byte*)handle + ByteCount, Guard).ContainsAnyExcept(Mark);
        NativeMemory.AlignedFree(start);
        device.PinnedDisposed(damaged);
        return true;
    }

    private static void* Guarded(long bytes)
    {
        byte* start = (byte*)NativeMemory.AlignedAlloc((nuint)(bytes + (2 * Guard)), Guard);
        new Span<byte>(start, Guard).Fill(Mark);
        new Span<byte>(start + Guard + bytes, Guard).Fill(Mark);
        return start + Guard;
    }
}
