using Qwen.Emulation;
using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.Native.Tests.Kernels;

public sealed class PrefillAttentionKernelTests
{
    [Theory]
    [InlineData(ElementType.F32)]
    [InlineData(ElementType.F16)]
    [InlineData(ElementType.BF16)]
    [InlineData(ElementType.E4M3)]
    [InlineData(ElementType.E5M2)]
    [InlineData(ElementType.S8)]
    public void RandomShapes_AreTheReference(ElementType cache)
    {
        for (int seed = 0; seed < 8; seed++)
        {
            var random = new Random((seed * 100) + (int)cache);
            int group = Pick(random, 1, 2, 4, 7, 8, 16), kvHeads = random.Next(1, 3), headDim = Pick(random, 64, 64, 128, 96, 32);
            int window = seed % 3 == 0 ? Pick(random, 1, 16, 40, 100) : 0;
            var shape = new AttentionShape(
                Pick(random, ElementType.BF16, ElementType.F16), cache, group * kvHeads, kvHeads, headDim, Pick(random, 16, 32, 64), window, HasKeyBias: cache.Bytes() == 1 && seed % 2 == 0);
            (int, int)[] sequences =
                [.. Enumerable.Range(0, random.Next(1, 4)).Select(_ => (Pick(random, 0, 0, 1, 15, 16, 63, 64, 100), Pick(random, 0, 1, 2, 5, 16, 17, 33)))];
            Check(Pick(random, 80, 89, 90), shape, sequences, seed);
        }
    }

    [Theory]
    [InlineData(1, 300)] // rows enough for several blocks, of which the first have less to do
    [InlineData(7, 64)]
    [InlineData(8, 33)]
    public void LongChunks_AreTheReference(int group, int tokens) =>
        Check(90, new AttentionShape(ElementType.BF16, ElementType.BF16, group, 1, 64, 16), [(0, tokens), (77, tokens / 2)], seed: 1);

    [Theory]
    [InlineData(ElementType.BF16, 128, 7, 0, 128, true)]
    [InlineData(ElementType.BF16, 128, 7, 0, 128, false)]
    [InlineData(ElementType.F16, 64, 2, 0, 128, true)]
    [InlineData(ElementType.BF16, 64, 1, 200, 128, true)]
    [InlineData(ElementType.F16, 128, 4, 0, 176, true)]
    [InlineData(ElementType.BF16, 64, 16, 33, 96, false)]
    [InlineData(ElementType.BF16, 128, 7, 0, 128, true, true)]
    [InlineData(ElementType.E4M3, 128, 7, 0, 128, true)]
    [InlineData(ElementType.S8, 64, 2, 300, 128, true)]
    public void WarpGroups_GoThroughManyTiles(ElementType cache, int headDim, int group, int window, int positions, bool takesTurns, bool holdsQueries = false)
    {
        var shape = new AttentionShape(cache == ElementType.F16 ? cache : ElementType.BF16, cache, group, 1, headDim, 16, window, HasKeyBias: cache.Bytes() == 1);
        foreach (bool isPersistent in (bool[])[false, true])
            Check(90, shape, [(400, 20), (0, 60), (600, 1), (127, 20), (30, 200)], seed: 7, tiling: new PrefillTiling(positions, UsesWarpGroups: true, takesTurns, holdsQueries, isPersistent));
    }

    [Theory]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(16)]
    public void FewTokensBehindALongContext_AreTheReference(int tokens) =>
        Check(90, new AttentionShape(ElementType.F16, ElementType.E4M3, 8, 2, 64, 32), [(200, tokens), (3, 1), (0, tokens)], seed: 2);

    [Theory]
    [InlineData(192, ElementType.BF16)]
    [InlineData(256, ElementType.BF16)]
    [InlineData(256, ElementType.E4M3)]
    [InlineData(160, ElementType.S8)]
    public void WideHeads_AreTheReference(int headDim, ElementType cache) =>
        Check(90, new AttentionShape(ElementType.BF16, cache, 4, 1, headDim, 16), [(30, 20)], seed: 6);

    [Fact]
    public void ARowThatSeesNothingOfItsFirstTiles_IsTheReference() =>
        Check(90, new AttentionShape(ElementType.BF16, ElementType.BF16, 1, 1, 64, 16, SlidingWindow: 3), [(10, 250)], seed: 3);

    [Fact]
    public void LargeKeyBias_IsAsExactAsAnF16Cache()
    {
        var shape = new AttentionShape(ElementType.BF16, ElementType.E4M3, 7, 1, 128, 16, HasKeyBias: true);
        Check(90, shape, [(40, 9), (0, 30)], seed: 4, biasSize: 100);
    }

    [Fact]
    public void BothKernels_ShareABatch()
    {
        var shape = new AttentionShape(ElementType.BF16, ElementType.S8, 4, 2, 64, 16);
        using var device = new EmulatedDevice(90);
        using var cache = new KernelCache(device);
        using IDeviceStream stream = device.CreateStream();
        using var data = new AttentionCase(device, stream, shape, [(70, 1), (0, 40), (33, 1), (20, 10)], seed: 5, decoded: cache);
        var decode = new DecodeAttentionKernel(cache, shape, blocks: 3);

        new PrefillAttentionKernel(cache, shape).Launch(stream, data.Qkv, data.Attended, data.Layer, data.Table, data.Upload<int>([1, 3]), 2, 40);
        decode.Launch(stream, data.Qkv, data.Attended, data.Layer, data.Rotary, data.Decoding(0, 2), data.TakeZeros(decode.WorkspaceBytes));

        Assert.Null(data.Difference([0, 1, 2, 3]));
    }

    private static T Pick<T>(Random random, params T[] of) => of[random.Next(of.Length)];

    private static void Check(int sm, AttentionShape shape, (int FirstPosition, int Tokens)[] sequences, int seed, float biasSize = 20, PrefillTiling? tiling = null)
    {
        using var device = new EmulatedDevice(sm);
        using var cache = new KernelCache(device);
        using IDeviceStream stream = device.CreateStream();
        using var data = new AttentionCase(device, stream, shape, sequences, seed, biasSize) { BiasError = Math.ScaleB(1, -11) };
        int[] served = [.. Enumerable.Range(0, sequences.Length)];
        new Random(seed).Shuffle(served);

        new PrefillAttentionKernel(cache, shape, tiling ?? PrefillTiling.For(cache.Target, shape)).Launch(
            stream, data.Qkv, data.Attended, data.Layer, data.Table, data.Upload<int>(served), served.Length, Math.Max(1, sequences.Max(s => s.Tokens)), data.Bias);

        Assert.Null(data.Difference(served));
    }
}
