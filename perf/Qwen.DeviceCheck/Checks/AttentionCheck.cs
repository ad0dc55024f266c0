using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Tests.Kernels;

namespace Qwen.DeviceCheck.Checks;

/// <summary>The attention kernels against double precision, and their times at Qwen2.5-7B's shape.</summary>
internal sealed class AttentionCheck : ICheck
{
    private const int Heads = 28, KvHeads = 4, HeadDim = 128, BlockSize = 16;
    private static readonly ElementType[] _caches = [ElementType.BF16, ElementType.F16, ElementType.E4M3, ElementType.E5M2, ElementType.S8, ElementType.F32];

    // Products of warp groups, where the device has them.
    private static readonly PrefillTiling[] _tilings =
    [
        .. from positions in (int[])[96, 128, 160, 176] from takesTurns in (bool[])[true, false] select new PrefillTiling(positions, UsesWarpGroups: true, takesTurns),
        .. from takesTurns in (bool[])[true, false] select new PrefillTiling(128, UsesWarpGroups: true, takesTurns, HoldsQueries: true),
        .. from takesTurns in (bool[])[true, false] select new PrefillTiling(128, UsesWarpGroups: true, takesTurns, IsPersistent: true),
    ];

    public string Name => "attention";

    public void Verify(CheckSession session)
    {
        using var kernels = new KernelCache(session.Device);
        foreach (ElementType cache in _caches)
        {
            foreach (bool hasBias in cache.Bytes() == 1 ? (bool[])[false, true] : [false])
            {
                var shape = new AttentionShape(ElementType.BF16, cache, Heads, KvHeads, HeadDim, BlockSize, HasKeyBias: hasBias);
                session.Case($"decode {cache}{(hasBias ? ", key bias" : "")}", () =>
                {
                    using var data = new AttentionCase(session.Device, session.Stream, shape, [(0, 1), (699, 1), (0, 0), (63, 1), (300, 1)], seed: 1, decoded: kernels);
                    var kernel = new DecodeAttentionKernel(kernels, shape);
                    kernel.Launch(session.Stream, data.Qkv, data.Attended, data.Layer, data.Rotary, data.Decoding(4, 2, 0, 1, 3), data.TakeZeros(kernel.WorkspaceBytes));
                    NoDifference(data.Difference([0, 1, 2, 3, 4]));
                });
                session.Case($"prefill {cache}{(hasBias ? ", key bias" : "")}", () =>
                {
                    using var data = new AttentionCase(session.Device, session.Stream, shape, [(0, 150), (100, 40), (0, 0), (500, 3)], seed: 2) { BiasError = Math.ScaleB(1, -11) };
                    var kernel = new PrefillAttentionKernel(kernels, shape);
                    kernel.Launch(session.Stream, data.Qkv, data.Attended, data.Layer, data.Table, data.Upload<int>([0, 1, 2]), 3, 150, data.Bias);
                    kernel.Launch(session.Stream, data.Qkv, data.Attended, data.Layer, data.Table, data.Upload<int>([3]), 1, 3, data.Bias);
                    NoDifference(data.Difference([0, 1, 2, 3]));
                });
            }
        }

        var small = new AttentionShape(ElementType.BF16, ElementType.BF16, 7, 1, HeadDim, BlockSize);
        (int, int)[] sequences = [(0, 300), (900, 60), (127, 20)];
        session.Case("prefill by warps", () => VerifyPrefill(session, kernels, small, PrefillTiling.OfWarps(small), sequences));
        foreach (PrefillTiling tiling in session.Device.Info.Major == 9 ? _tilings : [])
        {
            session.Case($"prefill by {Describe(tiling)}", () => VerifyPrefill(session, kernels, small, tiling, sequences));
            session.Case($"prefill by {Describe(tiling)}, heads of 64, a window", () => VerifyPrefill(session, kernels, small with { HeadDim = 64, SlidingWindow = 150 }, tiling, sequences));
        }
    }

    private static void VerifyPrefill(CheckSession session, KernelCache kernels, AttentionShape shape, PrefillTiling tiling, (int, int)[] sequences)
    {
        using var data = new AttentionCase(session.Device, session.Stream, shape, sequences, seed: 3);
        int[] served = [.. Enumerable.Range(0, sequences.Length)];
        new PrefillAttentionKernel(kernels, shape, tiling).Launch(session.Stream, data.Qkv, data.Attended, data.Layer, data.Table, data.Upload<int>(served), served.Length, sequences.Max(s => s.Item2));
        NoDifference(data.Difference(served));
    }

    public void Time(CheckSession session)
    {
        bool hasWarpGroups = session.Device.Info.Major == 9;
        foreach (ElementType cache in (ElementType[])[ElementType.BF16, ElementType.E4M3, ElementType.S8])
        {
            foreach (bool hasBias in cache.Bytes() == 1 ? (bool[])[false, true] : [false])
            {
                var shape = new AttentionShape(ElementType.BF16, cache, Heads, KvHeads, HeadDim, BlockSize, HasKeyBias: hasBias);
                foreach ((int batch, int context) in (ReadOnlySpan<(int, int)>)[(1, 512), (1, 4096), (1, 32768), (1, 131072), (32, 512), (32, 4096), (32, 32768), (256, 640)])
                    TimeDecode(session, shape, batch, context);
                TimePrefill(session, shape, PrefillTiling.OfWarps(shape), 8192);
                foreach (PrefillTiling tiling in hasWarpGroups ? _tilings.Where(t => cache.Bytes() == 2 || (t.Positions == 128 && !t.HoldsQueries)) : [])
                    TimePrefill(session, shape, tiling, 8192);
            }
        }

        foreach (PrefillTiling tiling in hasWarpGroups ? _tilings : [])
            TimePrefill(session, new AttentionShape(ElementType.BF16, ElementType.BF16, 14, 2, 64, BlockSize), tiling, 8192);
    }

    // Several layers' caches in turn, so that L2 doesn't hold what is read.
    private static void TimeDecode(CheckSession session, AttentionShape shape, int batch, int context)
    {
        long bytes = 2L * batch * context * KvHeads * HeadDim * shape.Cache.Bytes();
        int layers = (int)Math.Clamp((400L << 20) / bytes, 1, 64);
        using var step = new Step(session, shape, batch, 1, context, layers);
        var kernel = new DecodeAttentionKernel(step.Kernels, shape);
        using DeviceBuffer workspace = session.Device.Allocate(kernel.WorkspaceBytes);
        session.Stream.Fill(workspace.Pointer, 0, kernel.WorkspaceBytes);
        double seconds = session.Seconds(() =>
        {
            for (int layer = 0; layer < layers; layer++)
                kernel.Launch(session.Stream, step.Qkv, step.Attended, step.Layers[layer], step.Rotary, step.Decoding, workspace.Pointer);
        }) / layers;
        session.Measure($"decode {Describe(shape)}, batch {batch}, context {context}: {seconds * 1e6:0.0} us", bytes / seconds / 1e9, "GB/s", session.CopyBandwidth / 1e9);
    }

    private static void TimePrefill(CheckSession session, AttentionShape shape, PrefillTiling tiling, int tokens)
    {
        using var step = new Step(session, shape, 1, tokens, tokens, 1);
        var kernel = new PrefillAttentionKernel(step.Kernels, shape, tiling);
        double seconds = session.Seconds(() => kernel.Launch(session.Stream, step.Qkv, step.Attended, step.Layers[0], step.Table, step.Sequences, 1, tokens, step.Bias));
        double operations = 4.0 * shape.Heads * shape.HeadDim * ((double)tokens * (tokens + 1) / 2);
        session.Measure($"prefill {Describe(shape)}, {shape.HeadDim}, {tokens} tokens, {Describe(tiling)}: {seconds * 1e3:0.00} ms", operations / seconds / 1e12, "TFLOP/s");
    }

    private static string Describe(PrefillTiling tiling) => $"{(tiling.UsesWarpGroups ? "wgmma" : "mma")} {tiling.Positions}{(tiling.TakesTurns ? " in turns" : "")}{(tiling.HoldsQueries ? ", queries held" : "")}{(tiling.IsPersistent ? ", persistent" : "")}";

    private static string Describe(AttentionShape shape) => shape.Cache + (shape.HasKeyBias ? " with key bias" : "");

    private static void NoDifference(string? difference) => CheckSession.True(difference is null, difference ?? "");

    /// <summary>Memory of a step; its contents are zeros, which take as long as others.</summary>
    private sealed class Step : IDisposable
    {
        private readonly CheckSession _session;
        private readonly List<DeviceBuffer> _buffers = [];

        public Step(CheckSession session, AttentionShape shape, int batch, int tokens, int context, int layers)
        {
            _session = session;
            Kernels = new KernelCache(session.Device);
            Qkv = Take((long)batch * tokens * (Heads + (2 * KvHeads)) * HeadDim * sizeof(ushort));
            Attended = Take((long)batch * tokens * Heads * HeadDim * sizeof(ushort));
            int perSequence = (context + BlockSize - 1) / BlockSize;
            int[] blocks = [.. Enumerable.Range(0, batch * perSequence)];
            new Random(1).Shuffle(blocks);
            long vectors = (long)blocks.Length * KvHeads * BlockSize;
            Layers = [.. Enumerable.Range(0, layers).Select(_ => new KvLayerPointers(
                Take(vectors * HeadDim * shape.Cache.Bytes()), Take(vectors * HeadDim * shape.Cache.Bytes()), Take(vectors * sizeof(float)), Take(vectors * sizeof(float))))];
            int[] ordinals = [.. Enumerable.Range(0, batch)];
            DevicePointer rotations = Take((long)context * HeadDim * sizeof(float));
            Sequences = Upload(ordinals);
            Table = new SequenceTable(
                Upload([.. ordinals.Select(i => i * tokens)]), Upload([.. ordinals.Select(_ => tokens)]), Upload([.. ordinals.Select(_ => context - tokens)]), Upload(blocks), perSequence);
            Bias = shape.HasKeyBias ? new KeyBiasPointers(Take(KvHeads * HeadDim * sizeof(float)), rotations) : default;
            Rotary = new RotaryPointers(rotations, Bias.Bias);
            Decoding = new DecodingSequences(Upload([.. ordinals.SelectMany(i => (int[])[i, i, context, 0])]), batch, Table.BlockTables, perSequence);
        }

        public KernelCache Kernels { get; }

        public DevicePointer Qkv { get; }

        public DevicePointer Attended { get; }

        public KvLayerPointers[] Layers { get; }

        public DevicePointer Sequences { get; }

        public SequenceTable Table { get; }

        public KeyBiasPointers Bias { get; }

        public RotaryPointers Rotary { get; }

        public DecodingSequences Decoding { get; }

        public void Dispose()
        {
            Kernels.Dispose();
            foreach (DeviceBuffer buffer in _buffers)
                buffer.Dispose();
        }

        private DevicePointer Take(long bytes)
        {
            DeviceBuffer buffer = _session.Device.Allocate(bytes);
            _buffers.Add(buffer);
            _session.Stream.Fill(buffer.Pointer, 0, bytes);
            return buffer.Pointer;
        }

        private DevicePointer Upload(int[] values)
        {
            DeviceBuffer buffer = _session.Upload<int>(values);
            _buffers.Add(buffer);
            return buffer.Pointer;
        }
    }
}
