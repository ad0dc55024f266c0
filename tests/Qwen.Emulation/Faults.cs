using Qwen.Native.Device;

namespace Qwen.Emulation;

/// <summary>What a kernel did wrong.</summary>
public enum FaultKind
{
    /// <summary>An address outside every allocation, or outside a block's shared memory.</summary>
    OutOfBounds,

    /// <summary>An address in memory that was given back.</summary>
    UseAfterFree,

    /// <summary>An address that is not a multiple of the access's size.</summary>
    Misaligned,

    /// <summary>A read of memory that nobody wrote.</summary>
    UnwrittenMemory,

    /// <summary>A read of a register that the thread did not write.</summary>
    UnwrittenRegister,

    /// <summary>Two warps touch a byte of shared memory, one of them writing, with no barrier between; or two lanes store different values to one byte.</summary>
    Race,

    /// <summary>A read or write of the destination of an asynchronous copy that was not waited for.</summary>
    PendingCopy,

    /// <summary>A register of an asynchronous product touched before it was waited for, or a warp that ends without waiting.</summary>
    PendingProduct,

    /// <summary>Tensor cores read shared memory that a thread wrote without <c>fence.proxy.async</c> behind.</summary>
    MissingProxyFence,

    /// <summary>A barrier that not all its threads reach.</summary>
    DivergentBarrier,

    /// <summary>A shuffle, vote or matrix instruction whose lanes do not all take part.</summary>
    InactiveLane,

    /// <summary>No warp can go on.</summary>
    Deadlock,

    /// <summary>More instructions than the launch's budget.</summary>
    Overlong,

    /// <summary>A store to memory that kernels only read.</summary>
    ReadOnly,

    /// <summary>A kernel that overlaps the previous one touched global memory before it waited.</summary>
    MissingGridWait,

    /// <summary>An instruction used against its rules.</summary>
    Misuse,
}

/// <summary>A kernel did what it must not.</summary>
public sealed class DeviceFaultException : DeviceException
{
    internal DeviceFaultException(FaultKind kind, string detail, string kernel, int line, string text, Dim3 block, Dim3 thread, ulong? address)
        : base($"{kind}: {detail} Kernel {kernel}, PTX line {line}: \"{text}\", block ({block.X}, {block.Y}, {block.Z}), thread ({thread.X}, {thread.Y}, {thread.Z})" +
               (address is { } at ? $", address 0x{at:x}." : "."))
    {
        (Kind, Kernel, Line, Text, Block, Thread, Address) = (kind, kernel, line, text, block, thread, address);
    }

    /// <summary>What happened.</summary>
    public FaultKind Kind { get; }

    /// <summary>The kernel's entry.</summary>
    public string Kernel { get; }

    /// <summary>The line of the PTX text, from 1.</summary>
    public int Line { get; }

    /// <summary>The instruction.</summary>
    public string Text { get; }

    /// <summary>The block's index in the grid.</summary>
    public Dim3 Block { get; }

    /// <summary>The thread's index in the block.</summary>
    public Dim3 Thread { get; }

    /// <summary>The address, if it was about one: of global memory, or an offset in shared memory.</summary>
    public ulong? Address { get; }
}

/// <summary>PTX text that the emulated device does not take: malformed, for a newer device, or with an instruction it does not know.</summary>
public sealed class PtxException : DeviceException
{
    internal PtxException(int line, string text, string reason)
        : base($"PTX line {line}: {reason}" + (text.Length > 0 ? $" In \"{text}\"." : ""))
    {
        (Line, Text) = (line, text);
    }

    /// <summary>The line, from 1.</summary>
    public int Line { get; }

    /// <summary>The statement.</summary>
    public string Text { get; }
}
