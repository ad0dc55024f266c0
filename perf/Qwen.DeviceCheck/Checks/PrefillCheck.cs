using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Tests.Kernels;

namespace Qwen.DeviceCheck.Checks;

/// <summary>
/// Prefill attention against double precision, and its rate over 8192 tokens at the shapes of Qwen2.5-7B and 0.5B, by warps and by warp groups. Values are random: zeros draw less
/// power. Caches of 16 bits, or of others: a check for each, as what is new may hang.
/// </summary>
internal sealed class PrefillCheck(bool of16Bits) : ICheck
{
    private const int BlockSize = 16, Tokens = 8192, Period = 1 << 20;
    private static readonly PrefillTiling _usual = new(128, UsesWarpGroups: true, TakesTurns: true);
    private static readonly PrefillTiling[] _tilings =
    [
        _usual, _usual with { TakesTurns = false }, _usual with { HoldsQueries = true }, _usual with { IsPersistent = true }, _usual with { HoldsQueries = true, IsPersistent = true },
        _usual with { Positions = 176 }, _usual with { Positions = 176, IsPersistent = true }, _usual with { Positions = 96 },
    ];

    private static readonly AttentionShape _shape = new(ElementType.BF16, ElementType.BF16, 28, 4, 128, BlockSize), _narrow = _shape with { Heads = 14, KvHeads = 2, HeadDim = 64 };

    public string Name => of16Bits ? "prefill" : "prefill of bytes";

    /// <summary>Times too what is right: kernels are compiled once.</summary>
    public void Verify(CheckSession session)
    {
        foreach (IGrouping<AttentionShape, (AttentionShape, PrefillTiling Tiling)> cases in Cases(session).GroupBy(c => c.Shape))
        {
            using var step = new Step(session, cases.Key);
            foreach ((AttentionShape shape, PrefillTiling tiling) in cases)
            {
                session.Case($"{Describe(shape)}, {Describe(tiling)}", () =>
                {
                    var kernel = new PrefillAttentionKernel(step.Kernels, shape, tiling);
                    Verify(session, shape, kernel);
                    double seconds = session.Seconds(() => kernel.Launch(session.Stream, step.Qkv, step.Attended, step.Layer, step.Table, step.Sequences, 1, Tokens, step.Bias));
                    double operations = 4.0 * shape.Heads * shape.HeadDim * ((double)Tokens * (Tokens + 1) / 2);
                    session.Measure($"{Describe(shape)}, {Describe(tiling)}: {seconds * 1e3:0.000} ms", operations / seconds / 1e12, "TFLOP/s", session.OperationRate(ElementType.BF16) / 1e12);
                });
            }
        }
    }

    public void Time(CheckSession session)
    {
    }

    private IEnumerable<(AttentionShape Shape, PrefillTiling Tiling)> Cases(CheckSession session)
    {
        bool hasWarpGroups = session.Device.Info.Major == 9;
        AttentionShape[] shapes = of16Bits ? [_shape, _narrow]
            : [.. from cache in (ElementType[])[ElementType.E4M3, ElementType.S8] from hasBias in (bool[])[false, true] select _shape with { Cache = cache, HasKeyBias = hasBias }];
        foreach (AttentionShape shape in shapes)
        {
            yield return (shape, PrefillTiling.OfWarps(shape));
            foreach (PrefillTiling tiling in !hasWarpGroups ? [] : shape == _shape ? _tilings : of16Bits ? [_usual, _usual with { IsPersistent = true }] : [_usual, _usual with { TakesTurns = false }])
                yield return (shape, tiling);
        }
    }

    private static void Verify(CheckSession session, AttentionShape shape, PrefillAttentionKernel kernel)
    {
        (int, int)[] sequences = [(0, 20), (500, 12), (0, 0), (120, 11), (300, 3)];
        using var data = new AttentionCase(session.Device, session.Stream, shape, sequences, seed: 3) { BiasError = Math.ScaleB(1, -11) };
        kernel.Launch(session.Stream, data.Qkv, data.Attended, data.Layer, data.Table, data.Upload<int>([3, 2, 0, 1]), 4, 20, data.Bias);
        kernel.Launch(session.Stream, data.Qkv, data.Attended, data.Layer, data.Table, data.Upload<int>([4]), 1, 3, data.Bias);
        string? difference = data.Difference([0, 1, 2, 3, 4]);
        CheckSession.True(difference is null, difference ?? "");
    }

    private static string Describe(PrefillTiling tiling) =>
        $"{(tiling.UsesWarpGroups ? "wgmma" : "mma")} {tiling.Positions}{(tiling.TakesTurns ? " in turns" : "")}{(tiling.HoldsQueries ? ", queries held" : "")}{(tiling.IsPersistent ? ", persistent" : "")}";

    private static string Describe(AttentionShape shape) => $"{shape.Cache}{(shape.HasKeyBias ? " with key bias" : "")}, {shape.Heads}/{shape.KvHeads} heads of {shape.HeadDim}";

    /// <summary>A sequence, with random values that repeat.</summary>
    private sealed class Step : IDisposable
    {
        private readonly CheckSession _session;
        private readonly List<DeviceBuffer> _buffers = [];

        public Step(CheckSession session, AttentionShape shape)
        {
            _session = session;
            Kernels = new KernelCache(session.Device);
            int[] blocks = [.. Enumerable.Range(0, Tokens / BlockSize)];
            new Random(1).Shuffle(blocks);
            int vectors = Tokens * shape.KvHeads;
            Qkv = Take(shape.Type, (long)Tokens * (shape.Heads + (2 * shape.KvHeads)) * shape.HeadDim);
            Attended = Take(shape.Type, (long)Tokens * shape.Heads * shape.HeadDim);
            ElementType stored = shape.Cache == ElementType.S8 ? ElementType.E4M3 : shape.Cache; // bytes alike
            Layer = new KvLayerPointers(Take(stored, (long)vectors * shape.HeadDim), Take(stored, (long)vectors * shape.HeadDim), Take(ElementType.F32, vectors), Take(ElementType.F32, vectors));
            Table = new SequenceTable(Upload(0), Upload(Tokens), Upload(0), Upload(blocks), blocks.Length);
            Bias = new KeyBiasPointers(Take(ElementType.F32, shape.KvHeads * shape.HeadDim), Take(ElementType.F32, (long)Tokens * shape.HeadDim));
            Sequences = Upload(0);
        }

        public KernelCache Kernels { get; }

        public DevicePointer Qkv { get; }

        public DevicePointer Attended { get; }

        public KvLayerPointers Layer { get; }

        public SequenceTable Table { get; }

        public KeyBiasPointers Bias { get; }

        public DevicePointer Sequences { get; }

        public void Dispose()
        {
            Kernels.Dispose();
            _buffers.ForEach(buffer => buffer.Dispose());
        }

        private DevicePointer Take(ElementType type, long count)
        {
            using DeviceBuffer pattern = _session.Upload<byte>(SmallFloats.Random(new Random(2), type, Period).Bytes);
            DeviceBuffer buffer = _session.Device.Allocate(count * type.Bytes());
            _buffers.Add(buffer);
            for (long at = 0; at < buffer.ByteCount; at += pattern.ByteCount)
                _session.Stream.Copy(buffer.Pointer + at, pattern.Pointer, Math.Min(pattern.ByteCount, buffer.ByteCount - at));
            _session.Stream.Synchronize();
            return buffer.Pointer;
        }

        private DevicePointer Upload(params int[] values)
        {
            _buffers.Add(_session.Upload<int>(values));
            return _buffers[^1].Pointer;
        }
    }
}
