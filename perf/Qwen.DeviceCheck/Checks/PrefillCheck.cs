using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Tests.Kernels;

namespace Qwen.DeviceCheck.Checks;

/// <summary>Prefill attention against double precision, and its rate over 8192 tokens at the shapes of Qwen2.5-7B and 0.5B, by warps and by warp groups. Values are random: zeros draw less power.</summary>
internal sealed class PrefillCheck : ICheck
{
    private const int BlockSize = 16, Tokens = 8192, Period = 1 << 20;
    private static readonly ElementType[] _caches = [ElementType.BF16, ElementType.F16, ElementType.E4M3, ElementType.E5M2, ElementType.S8, ElementType.F32];
    private static readonly PrefillTiling _usual = new(128, UsesWarpGroups: true, TakesTurns: true);
    private static readonly PrefillTiling[] _tilings =
    [
        _usual, _usual with { TakesTurns = false }, _usual with { HoldsQueries = true }, _usual with { IsPersistent = true }, _usual with { HoldsQueries = true, IsPersistent = true },
        _usual with { Positions = 176 }, _usual with { Positions = 176, IsPersistent = true }, _usual with { Positions = 96 },
    ];

    public string Name => "prefill";

    public void Verify(CheckSession session)
    {
        using var kernels = new KernelCache(session.Device);
        foreach (ElementType cache in _caches)
        {
            foreach (bool hasBias in cache.Bytes() == 1 ? (bool[])[false, true] : [false])
            {
                var shape = new AttentionShape(ElementType.BF16, cache, 7, 1, 128, BlockSize, HasKeyBias: hasBias);
                session.Case(Describe(shape), () => Verify(session, kernels, shape, PrefillTiling.For(kernels.Target, shape)));
            }
        }

        if (session.Device.Info.Major != 9)
            return;
        var plain = new AttentionShape(ElementType.BF16, ElementType.BF16, 7, 1, 128, BlockSize);
        session.Case("BF16 by warps", () => Verify(session, kernels, plain, PrefillTiling.OfWarps(plain)));
        foreach (PrefillTiling tiling in _tilings.Skip(1))
            session.Case(Describe(tiling), () => Verify(session, kernels, plain, tiling));
        session.Case("heads of 64, a window", () => Verify(session, kernels, plain with { HeadDim = 64, SlidingWindow = 150 }, _usual));
    }

    public void Time(CheckSession session)
    {
        bool hasWarpGroups = session.Device.Info.Major == 9;
        var shape = new AttentionShape(ElementType.BF16, ElementType.BF16, 28, 4, 128, BlockSize);
        Time(session, shape, hasWarpGroups ? [PrefillTiling.OfWarps(shape), .. _tilings] : [PrefillTiling.OfWarps(shape)]);
        Time(session, shape with { Heads = 14, KvHeads = 2, HeadDim = 64 }, hasWarpGroups ? [_usual, _usual with { IsPersistent = true }] : []);
        foreach (ElementType cache in (ElementType[])[ElementType.E4M3, ElementType.S8])
        {
            foreach (bool hasBias in (bool[])[false, true])
            {
                AttentionShape bytes = shape with { Cache = cache, HasKeyBias = hasBias };
                Time(session, bytes, hasWarpGroups ? [PrefillTiling.OfWarps(bytes), _usual, _usual with { TakesTurns = false }] : [PrefillTiling.OfWarps(bytes)]);
            }
        }
    }

    private static void Verify(CheckSession session, KernelCache kernels, AttentionShape shape, PrefillTiling tiling)
    {
        (int, int)[] sequences = [(0, 40), (400, 25), (0, 0), (120, 20), (300, 3)];
        using var data = new AttentionCase(session.Device, session.Stream, shape, sequences, seed: 3) { BiasError = Math.ScaleB(1, -11) };
        var kernel = new PrefillAttentionKernel(kernels, shape, tiling);
        kernel.Launch(session.Stream, data.Qkv, data.Attended, data.Layer, data.Table, data.Upload<int>([3, 2, 0, 1]), 4, 40, data.Bias);
        kernel.Launch(session.Stream, data.Qkv, data.Attended, data.Layer, data.Table, data.Upload<int>([4]), 1, 3, data.Bias);
        string? difference = data.Difference([0, 1, 2, 3, 4]);
        CheckSession.True(difference is null, difference ?? "");
    }

    private static void Time(CheckSession session, AttentionShape shape, IReadOnlyList<PrefillTiling> tilings)
    {
        var buffers = new List<DeviceBuffer>();
        try
        {
            using var kernels = new KernelCache(session.Device);
            int[] blocks = [.. Enumerable.Range(0, Tokens / BlockSize)];
            new Random(1).Shuffle(blocks);
            int vectors = Tokens * shape.KvHeads;
            DevicePointer qkv = Take(shape.Type, (long)Tokens * (shape.Heads + (2 * shape.KvHeads)) * shape.HeadDim), attended = Take(shape.Type, (long)Tokens * shape.Heads * shape.HeadDim);
            ElementType stored = shape.Cache == ElementType.S8 ? ElementType.E4M3 : shape.Cache; // bytes alike
            var layer = new KvLayerPointers(Take(stored, (long)vectors * shape.HeadDim), Take(stored, (long)vectors * shape.HeadDim), Take(ElementType.F32, vectors), Take(ElementType.F32, vectors));
            var table = new SequenceTable(Upload(0), Upload(Tokens), Upload(0), Upload(blocks), blocks.Length);
            var bias = new KeyBiasPointers(Take(ElementType.F32, shape.KvHeads * shape.HeadDim), Take(ElementType.F32, (long)Tokens * shape.HeadDim));
            DevicePointer sequences = Upload(0);
            foreach (PrefillTiling tiling in tilings)
            {
                var kernel = new PrefillAttentionKernel(kernels, shape, tiling);
                double seconds = session.Seconds(() => kernel.Launch(session.Stream, qkv, attended, layer, table, sequences, 1, Tokens, bias));
                double operations = 4.0 * shape.Heads * shape.HeadDim * ((double)Tokens * (Tokens + 1) / 2);
                session.Measure($"{Describe(shape)}, {Describe(tiling)}: {seconds * 1e3:0.000} ms", operations / seconds / 1e12, "TFLOP/s");
            }
        }
        finally
        {
            buffers.ForEach(buffer => buffer.Dispose());
        }

        // Random values, the same again and again.
        DevicePointer Take(ElementType type, long count)
        {
            using DeviceBuffer pattern = session.Upload<byte>(SmallFloats.Random(new Random(2), type, Period).Bytes);
            DeviceBuffer buffer = session.Device.Allocate(count * type.Bytes());
            buffers.Add(buffer);
            for (long at = 0; at < buffer.ByteCount; at += pattern.ByteCount)
                session.Stream.Copy(buffer.Pointer + at, pattern.Pointer, Math.Min(pattern.ByteCount, buffer.ByteCount - at));
            session.Stream.Synchronize();
            return buffer.Pointer;
        }

        DevicePointer Upload(params int[] values)
        {
            buffers.Add(session.Upload<int>(values));
            return buffers[^1].Pointer;
        }
    }

    private static string Describe(PrefillTiling tiling) =>
        $"{(tiling.UsesWarpGroups ? "wgmma" : "mma")} {tiling.Positions}{(tiling.TakesTurns ? " in turns" : "")}{(tiling.HoldsQueries ? ", queries held" : "")}{(tiling.IsPersistent ? ", persistent" : "")}";

    private static string Describe(AttentionShape shape) => $"{shape.Cache}{(shape.HasKeyBias ? " with key bias" : "")}, {shape.Heads}/{shape.KvHeads} heads of {shape.HeadDim}";
}
