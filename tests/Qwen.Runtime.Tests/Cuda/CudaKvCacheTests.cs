using Qwen.Emulation;
using Qwen.Native.Device;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Backends.Cuda;

namespace Qwen.Runtime.Tests.Cuda;

public sealed class CudaKvCacheTests
{
    private const int Blocks = 6;

    public static TheoryData<KvCacheType> Types() => [.. Enum.GetValues<KvCacheType>()];

    [Theory]
    [MemberData(nameof(Types))]
    public void Blocks_AreReadAsWritten_AndCopiedInOrder(KvCacheType type)
    {
        var shape = new KvCacheShape(3, 2, 32, type, Blocks, BlockSize: 16, new RotaryAngles(new double[16], 1, 30));
        using var device = new EmulatedDevice();
        using IDeviceStream stream = device.CreateStream();
        using (var cache = new CudaKvCache(device, stream, shape))
        {
            Assert.Equal(CudaKvCache.Bytes(shape), device.Info.MemoryBytes - device.FreeMemory);
            byte[][] written = new byte[Blocks][];
            for (int i = 0; i < Blocks; i++)
            {
                written[i] = new byte[cache.BlockBytes];
                new Random(i).NextBytes(written[i]);
                cache.WriteBlock(i, written[i]);
            }

            cache.CopyBlocks([new(0, 3), new(3, 5), new(1, 3), new(2, 2)]);
            Assert.Equal([written[0], written[1], written[2], written[1], written[4], written[0]], Enumerable.Range(0, Blocks).Select(Read));
            Assert.Throws<ArgumentOutOfRangeException>(() => Read(Blocks));
            Assert.Throws<ArgumentOutOfRangeException>(() => cache.CopyBlocks([new(0, -1)]));
            Assert.Throws<ArgumentOutOfRangeException>(() => cache.WriteBlock(0, new byte[cache.BlockBytes - 1]));

            byte[] Read(int block)
            {
                byte[] bytes = new byte[cache.BlockBytes];
                cache.ReadBlock(block, bytes);
                return bytes;
            }
        }
    }
}
