using System.Runtime.InteropServices;

namespace Qwen.Cpu.MachineCode;

/// <summary>Machine code that can be called: written once, then readable and executable only, and there until the process ends.</summary>
/// <remarks>Linux on x86-64. Windows has another calling convention, for which <see cref="Assembler"/> has no registers.</remarks>
internal static unsafe partial class ExecutableMemory
{
    private const int ReadWrite = 1 | 2, ReadExecute = 1 | 4; // PROT_*
    private const int PrivateAnonymous = 0x02 | 0x20; // MAP_*
    private const nint Failed = -1;

    /// <summary>Where code, a multiple of nothing, was put, aligned to a page; null where this system does not let it run.</summary>
    public static byte* TryPut(ReadOnlySpan<byte> code)
    {
        if (!OperatingSystem.IsLinux() || RuntimeInformation.ProcessArchitecture != Architecture.X64)
            return null;
        nint memory = Map(0, (nuint)code.Length, ReadWrite, PrivateAnonymous, -1, 0);
        if (memory == Failed)
            return null;
        code.CopyTo(new Span<byte>((void*)memory, code.Length));
        if (Protect(memory, (nuint)code.Length, ReadExecute) == 0)
            return (byte*)memory;
        _ = Unmap(memory, (nuint)code.Length);
        return null;
    }

    [LibraryImport("libc", EntryPoint = "mmap")]
    private static partial nint Map(nint address, nuint length, int protection, int flags, int file, long offset);

    [LibraryImport("libc", EntryPoint = "mprotect")]
    private static partial int Protect(nint address, nuint length, int protection);

    [LibraryImport("libc", EntryPoint = "munmap")]
    private static partial int Unmap(nint address, nuint length);
}
