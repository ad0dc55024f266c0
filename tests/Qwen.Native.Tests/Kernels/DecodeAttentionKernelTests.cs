using Qwen.Emulation;
using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.Native.Tests.Kernels;

public sealed class DecodeAttentionKernelTests
{
    private static readonly int[] _edges = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200, 300];

    [Theory]
    [InlineData(ElementType.F32)]
    [InlineData(ElementType.F16)]
    [InlineData(ElementType.BF16)]
    [InlineData(ElementType.E4M3)]
    [InlineData(ElementType.E5M2)]
    [InlineData(ElementType.S8)]
    public void RandomShapes_AreTheReference(ElementType cache)
    {
        for (int seed = 0; seed < 10; seed++)
        {
            var random = new Random((seed * 100) + (int)cache);
            int group = Pick(random, 1, 2, 3, 4, 7, 8, 12, 16), kvHeads = random.Next(1, 4), headDim = Pick(random, 64, 64, 128, 128, 96, 32);
            int window = seed % 3 == 0 ? Pick(random, 1, 16, 40, 100) : 0;
            var shape = new AttentionShape(
                Pick(random, ElementType.BF16, ElementType.F16), cache, group * kvHeads, kvHeads, headDim, Pick(random, 16, 32, 64), window, HasKeyBias: cache.Bytes() == 1 && seed % 2 == 0, HasQkNorm: seed % 4 == 1);
            int[] lengths = [.. Enumerable.Range(0, random.Next(1, 6)).Select(_ => Pick(random, [0, .. _edges]))];
            Check(Pick(random, 80, 89, 90), shape, lengths, blocks: Pick(random, 1, 2, 5, 16, 64), seed);
        }
    }

    [Fact]
    public void EveryLength_AroundTileAndRoundEdges_IsTheReference() =>
        Check(90, new AttentionShape(ElementType.BF16, ElementType.BF16, 4, 2, 64, 16), _edges, blocks: 7, seed: 1);

    [Fact]
    public void MoreSequencesThanLanes_AmongThemEmptyOnes_AreTheReference() =>
        Check(90, new AttentionShape(ElementType.F16, ElementType.F16, 2, 1, 32, 16), [.. Enumerable.Range(0, 70).Select(i => i % 5 == 3 ? 0 : 1 + (i * 7 % 40))], blocks: 24, seed: 2);

    [Fact]
    public void OnlyEmptySequences_DoNothing() => Check(90, new AttentionShape(ElementType.BF16, ElementType.BF16, 2, 1, 64, 16), [0, 0, 0], blocks: 4, seed: 3);

    [Fact]
    public void LargeKeyBias_KeepsItsPrecision()
    {
        // A bias of some hundreds: in 16 bits, scores would be off by several units.
        var shape = new AttentionShape(ElementType.BF16, ElementType.E4M3, 7, 1, 128, 16, HasKeyBias: true);
        Check(90, shape, [1, 40, 150], blocks: 3, seed: 4, biasSize: 200);
    }

    [Theory]
    [InlineData(20, 40)] // runs of a round and groups of parts
    [InlineData(20, 2)] // two blocks meet in a head
    [InlineData(90, 96)] // too long to be cut in fewer parts: groups that are merged one by one, then all
    [InlineData(90, 37)]
    [InlineData(90, 1)]
    public void LongHeads_CutInManyParts_AreTheReference(int rounds, int blocks) =>
        Check(90, new AttentionShape(ElementType.BF16, ElementType.BF16, 2, 1, 32, 16), [(rounds * 64) - 5, 0, 70], blocks, seed: 6);

    [Theory]
    [InlineData(ElementType.BF16, 16, 256)] // several vectors of columns a thread
    [InlineData(ElementType.F16, 12, 96)] // a last vector that some threads have twice
    public void WideGroups_AreMergedRight(ElementType type, int group, int headDim) =>
        Check(80, new AttentionShape(type, type, group, 1, headDim, 16), [300], blocks: 8, seed: 7);

    [Fact]
    public void Launches_ShareAWorkspace_WhoseTicketsCountBack()
    {
        using var device = new EmulatedDevice(90);
        using var cache = new KernelCache(device);
        using IDeviceStream stream = device.CreateStream();
        var wide = new AttentionShape(ElementType.BF16, ElementType.BF16, 8, 1, 64, 16);
        var narrow = new AttentionShape(ElementType.F16, ElementType.F16, 2, 2, 32, 16, SlidingWindow: 300);
        using var first = new AttentionCase(device, stream, wide, [(599, 1), (0, 0), (280, 1)], seed: 8, decoded: cache);
        using var second = new AttentionCase(device, stream, narrow, [(400, 1), (1200, 1)], seed: 9, decoded: cache);
        var kernels = (Wide: new DecodeAttentionKernel(cache, wide, blocks: 20), Narrow: new DecodeAttentionKernel(cache, narrow, blocks: 31));
        DevicePointer workspace = first.TakeZeros(Math.Max(kernels.Wide.WorkspaceBytes, kernels.Narrow.WorkspaceBytes));

        for (int launch = 0; launch < 3; launch++)
        {
            stream.Fill(first.Attended, 0xff, 2L * 8 * 64 * sizeof(ushort));
            stream.Fill(second.Attended, 0xff, 2L * 2 * 32 * sizeof(ushort));
            kernels.Wide.Launch(stream, first.Qkv, first.Attended, first.Layer, first.Rotary, first.Decoding(2, 1, 0), workspace);
            kernels.Narrow.Launch(stream, second.Qkv, second.Attended, second.Layer, second.Rotary, second.Decoding(0, 1), workspace);

            Assert.Null(first.Difference([0, 1, 2]));
            Assert.Null(second.Difference([0, 1]));
        }

        byte[] tickets = new byte[DecodeMerge.TicketBytes];
        unsafe
        {
            fixed (byte* to = tickets)
                stream.CopyToHost(to, workspace, tickets.Length);
        }

        stream.Synchronize();
        Assert.All(tickets, ticket => Assert.Equal(0, ticket));
    }

    [Fact]
    public void Result_RepeatsBitForBit()
    {
        var shape = new AttentionShape(ElementType.BF16, ElementType.E4M3, 8, 2, 64, 16);
        Assert.Equal(Run(), Run());

        byte[] Run()
        {
            using var device = new EmulatedDevice(90);
            using var cache = new KernelCache(device);
            using IDeviceStream stream = device.CreateStream();
            using var data = new AttentionCase(device, stream, shape, [(299, 1), (70, 1)], seed: 5, decoded: cache);
            Launch(cache, stream, shape, data, [0, 1], blocks: 6, DecodeTiling.Default);
            byte[] result = new byte[2 * 8 * 64 * sizeof(ushort)];
            unsafe
            {
                fixed (byte* to = result)
                    stream.CopyToHost(to, data.Attended, result.Length);
            }

            stream.Synchronize();
            return result;
        }
    }

    [Theory]
    [InlineData(0, 1, 64, 16)]
    [InlineData(17, 1, 64, 16)]
    [InlineData(3, 2, 64, 16)]
    [InlineData(2, 2, 40, 16)]
    [InlineData(2, 2, 288, 16)]
    [InlineData(2, 2, 64, 8)]
    [InlineData(2, 2, 64, 24)]
    public void ShapesThatItCantDo_AreRefused(int heads, int kvHeads, int headDim, int blockSize)
    {
        var shape = new AttentionShape(ElementType.BF16, ElementType.BF16, heads, kvHeads, headDim, blockSize);

        Assert.Throws<ArgumentOutOfRangeException>(() => DecodeAttentionKernel.Build(new(80, 74), shape));
        Assert.Throws<ArgumentOutOfRangeException>(() => PrefillAttentionKernel.Build(new(80, 74), shape));
    }

    [Fact]
    public void ACacheThatIsNotOfBytes_HoldsItsKeyBias()
    {
        var shape = new AttentionShape(ElementType.BF16, ElementType.BF16, 2, 1, 64, 16, HasKeyBias: true);

        Assert.Throws<ArgumentOutOfRangeException>(() => DecodeAttentionKernel.Build(new(80, 74), shape));
    }

    private static T Pick<T>(Random random, params T[] of) => of[random.Next(of.Length)];

    /// <summary>Decodes sequences of so many positions, listed in an order of their own.</summary>
    private static void Check(int sm, AttentionShape shape, int[] lengths, int blocks, int seed, float biasSize = 20)
    {
        using var device = new EmulatedDevice(sm);
        using var cache = new KernelCache(device);
        using IDeviceStream stream = device.CreateStream();
        using var data = new AttentionCase(device, stream, shape, [.. lengths.Select(length => length == 0 ? (0, 0) : (length - 1, 1))], seed, biasSize, cache);
        int[] served = [.. Enumerable.Range(0, lengths.Length)];
        new Random(seed).Shuffle(served);

        foreach (DecodeTiling tiling in (DecodeTiling[])[DecodeTiling.Default, new(4, 2), new(4, 3), new(8, 0), new(8, 2)])
        {
            if (tiling.Warps * tiling.Stages * 2 * KvTile.Positions(shape) * shape.RowBytes > ((sm == 90 ? 190 : 90) - (shape.HasKeyBias ? 50 : 0)) << 10)
                continue; // more than some devices have
            stream.Fill(data.Attended, 0xff, (long)Math.Max(1, lengths.Count(length => length > 0)) * shape.Heads * shape.HeadDim * sizeof(ushort));
            Launch(cache, stream, shape, data, served, blocks, tiling);

            Assert.Null(data.Difference(served));
        }
    }

    private static void Launch(KernelCache cache, IDeviceStream stream, AttentionShape shape, AttentionCase data, int[] served, int blocks, DecodeTiling tiling)
    {
        var kernel = new DecodeAttentionKernel(cache, shape, blocks, tiling);
        kernel.Launch(stream, data.Qkv, data.Attended, data.Layer, data.Rotary, data.Decoding(served), data.TakeZeros(kernel.WorkspaceBytes));
        stream.Synchronize();
    }
}
