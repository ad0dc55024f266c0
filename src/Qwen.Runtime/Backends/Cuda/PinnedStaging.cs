using Qwen.Native.Device;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>Copies host memory of any kind to the device through two page-locked buffers: while one is on its way, the other is filled.</summary>
/// <param name="device">The device.</param>
/// <param name="stream">What copies.</param>
internal sealed unsafe class PinnedStaging(IDevice device, IDeviceStream stream) : IDisposable
{
    // Large enough that a copy runs at the bus's speed, small enough to overlap well.
    private const int ChunkBytes = 16 << 20;

    // One core copies out of mapped pages at a tenth of what the bus takes (it also waits for them to be mapped), so many share a chunk.
    private const int PieceBytes = 512 << 10;

    private readonly PinnedBuffer?[] _buffers = new PinnedBuffer?[2];
    private readonly IDeviceEvent?[] _copied = new IDeviceEvent?[2];
    private int _next;

    /// <summary>Writes a part of what is uploaded.</summary>
    /// <param name="first">Its first unit.</param>
    /// <param name="part">A whole number of units.</param>
    public delegate void Filler(long first, Span<byte> part);

    /// <summary>Copies bytes.</summary>
    public void Upload(DevicePointer to, void* from, long bytes) => Upload(to, bytes, 1, (first, part) =>
    {
        fixed (byte* start = part)
        {
            (nint source, nint target, int count) = ((nint)from + (nint)first, (nint)start, part.Length);
            if (count <= PieceBytes)
                CopyPiece(0);
            else
                Parallel.For(0, (count + PieceBytes - 1) / PieceBytes, CopyPiece);

            void CopyPiece(int piece)
            {
                int at = piece * PieceBytes, size = Math.Min(PieceBytes, count - at);
                Buffer.MemoryCopy((void*)(source + at), (void*)(target + at), size, size);
            }
        }
    });

    /// <summary>Copies values.</summary>
    public void Upload<T>(DevicePointer to, ReadOnlySpan<T> values)
        where T : unmanaged
    {
        fixed (T* from = values)
            Upload(to, from, (long)values.Length * sizeof(T));
    }

    /// <summary>Copies what <paramref name="fill"/> writes, in order.</summary>
    /// <param name="to">Where to.</param>
    /// <param name="units">How many units.</param>
    /// <param name="unitBytes">Bytes of a unit, which is never cut.</param>
    /// <param name="fill">Writes them.</param>
    public void Upload(DevicePointer to, long units, long unitBytes, Filler fill)
    {
        long perChunk = Math.Max(ChunkBytes / unitBytes, 1);
        for (long first = 0; first < units; first += perChunk)
        {
            long bytes = Math.Min(perChunk, units - first) * unitBytes;
            IDeviceEvent copied = _copied[_next] ??= device.CreateEvent();
            copied.Synchronize();
            if (_buffers[_next]?.ByteCount < bytes)
            {
                _buffers[_next]!.Dispose();
                _buffers[_next] = null;
            }

            PinnedBuffer buffer = _buffers[_next] ??= device.AllocatePinned(Math.Max(ChunkBytes, bytes));
            fill(first, new Span<byte>(buffer.Pointer, checked((int)bytes)));
            stream.CopyToDevice(to + (first * unitBytes), buffer.Pointer, bytes);
            stream.Record(copied);
            _next ^= 1;
        }
    }

    /// <summary>Waits for all copies and frees the buffers; the next upload makes them anew.</summary>
    public void Dispose()
    {
        for (int i = 0; i < 2; i++)
        {
            _copied[i]?.Synchronize();
            _copied[i]?.Dispose();
            _buffers[i]?.Dispose();
            (_copied[i], _buffers[i]) = (null, null);
        }
    }
}
