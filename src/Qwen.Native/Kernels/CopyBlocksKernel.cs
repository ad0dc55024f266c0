using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>In each of several buffers, copies whole blocks, one pair (from, to) after the other: copy-on-write of the cache, all layers at once.</summary>
/// <remarks>A thread has the same 16 bytes of every block, so that a block that one pair writes can be the next one's source without a barrier.</remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="blockBytes">Bytes of a block in each buffer, a multiple of 16.</param>
public sealed class CopyBlocksKernel(KernelCache cache, int blockBytes) : Kernel(cache, Build(cache.Target, blockBytes))
{
    private const int Width = 16;

    /// <summary>The kernel for blocks of a size.</summary>
    public static PtxKernel Build(PtxTarget target, int blockBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(blockBytes);
        ArgumentOutOfRangeException.ThrowIfNotEqual(blockBytes % Width, 0, nameof(blockBytes));
        var k = new PtxBuilder(target, $"copy_blocks_{blockBytes}", threads: 128);
        Global buffers = k.Pointer("buffers"), copies = k.Pointer("copies");
        U32 count = k.Number("count");
        U32 offset = ((k.BlockX * k.Threads) + k.Thread) * Width;
        k.ReturnIf(offset >= blockBytes);
        k.WaitForPreviousKernel();
        Global mine = new Global(k.Load<U64>(buffers.At(k.BlockY, sizeof(ulong)))).At(offset, 1);
        using (k.For(0, count, out U32 i))
        {
            U32[] pair = k.LoadVector<U32>(copies.At(i, 2 * sizeof(int)), 2, CacheHint.ReadOnly);
            k.StoreVector<U32>(mine.At(pair[1], blockBytes), k.LoadVector<U32>(mine.At(pair[0], blockBytes), 4));
        }

        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="buffers">The addresses [bufferCount], 64-bit.</param>
    /// <param name="bufferCount">Buffers, at most 65,535.</param>
    /// <param name="copies">S32 pairs (from, to) [count, 2], each a block of every buffer.</param>
    /// <param name="count">Pairs.</param>
    public void Launch(IDeviceStream stream, DevicePointer buffers, int bufferCount, DevicePointer copies, int count)
    {
        int perBlock = Threads * Width;
        Launch(stream, new Dim3((blockBytes + perBlock - 1) / perBlock, bufferCount), [Argument.Of(buffers), Argument.Of(copies), Argument.Of(count)], overlapPrevious: true);
    }
}
