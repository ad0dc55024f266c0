using System.Runtime.InteropServices;

namespace Qwen.Cpu.Tests;

/// <summary>Memory that ends where an unreadable page begins: a kernel that touches one byte too many crashes the test run.</summary>
/// <remarks>On systems without mmap it is plain memory, and only the values are checked.</remarks>
internal sealed unsafe class GuardedMemory<T> : IDisposable
    where T : unmanaged
{
    private readonly void* _base;
    private readonly nuint _mapped;

    public GuardedMemory(long length)
    {
        nuint bytes = (nuint)(length * sizeof(T));
        nuint page = (nuint)Environment.SystemPageSize;
        nuint room = (bytes + page - 1) / page * page;
        if (OperatingSystem.IsLinux())
        {
            _mapped = room + page;
            _base = MemoryMap.Map(null, _mapped, MemoryMap.ReadWrite, MemoryMap.PrivateAnonymous, -1, 0);
            Assert.True((nint)_base != -1, "mmap failed");
            Assert.Equal(0, MemoryMap.Protect((byte*)_base + room, page, MemoryMap.NoAccess));
        }
        else
        {
            _base = NativeMemory.AllocZeroed(room);
        }

        Pointer = (T*)((byte*)_base + room - bytes);
        Length = length;
    }

    /// <summary>The first element; not aligned beyond its own size.</summary>
    public T* Pointer { get; }

    public long Length { get; }

    public Span<T> Span => new(Pointer, checked((int)Length));

    public void Dispose()
    {
        if (_mapped != 0)
            _ = MemoryMap.Unmap(_base, _mapped);
        else
            NativeMemory.Free(_base);
    }
}

internal static unsafe class MemoryMap
{
    public const int NoAccess = 0, ReadWrite = 3, PrivateAnonymous = 0x22;

    [DllImport("libc", EntryPoint = "mmap")]
    public static extern void* Map(void* address, nuint length, int protection, int flags, int file, nint offset);

    [DllImport("libc", EntryPoint = "mprotect")]
    public static extern int Protect(void* address, nuint length, int protection);

    [DllImport("libc", EntryPoint = "munmap")]
    public static extern int Unmap(void* address, nuint length);
}
