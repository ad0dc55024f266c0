using System.Runtime.InteropServices;

namespace Qwen.Cpu.Tests;

/// <summary>Bytes that end where the process may not read: a kernel that reads past them ends the test run.</summary>
internal sealed unsafe partial class GuardedMemory : IDisposable
{
    private const int ReadWrite = 3, PrivateAnonymous = 0x22;

    private readonly nuint _mapped;
    private readonly byte* _pages;

    /// <summary>Copies the bytes to the end of readable memory.</summary>
    public GuardedMemory(ReadOnlySpan<byte> bytes)
    {
        nuint page = (nuint)Environment.SystemPageSize;
        nuint readable = ((nuint)bytes.Length + page - 1) / page * page;
        _mapped = readable + page;
        _pages = Map(null, _mapped, ReadWrite, PrivateAnonymous, -1, 0);
        Assert.NotEqual(-1, (nint)_pages);
        Assert.Equal(0, Protect(_pages + readable, page, 0));
        Pointer = _pages + readable - bytes.Length;
        bytes.CopyTo(new Span<byte>(Pointer, bytes.Length));
    }

    public static bool IsSupported => OperatingSystem.IsLinux();

    public byte* Pointer { get; }

    public void Dispose() => Assert.Equal(0, Unmap(_pages, _mapped));

    [LibraryImport("libc", EntryPoint = "mmap")]
    private static partial byte* Map(void* address, nuint length, int protection, int flags, int file, nint offset);

    [LibraryImport("libc", EntryPoint = "mprotect")]
    private static partial int Protect(void* address, nuint length, int protection);

    [LibraryImport("libc", EntryPoint = "munmap")]
    private static partial int Unmap(void* address, nuint length);
}
