using Qwen.Native.Device;
using Qwen.Native.Interop;
using Qwen.Native.Kernels;
using Qwen.Native.Tests.Kernels;

namespace Qwen.DeviceCheck.Checks;

/// <summary>Decode attention against double precision, and its times at Qwen2.5-7B's shape.</summary>
internal sealed class AttentionCheck : ICheck
{
    private const int Heads = 28, KvHeads = 4, HeadDim = 128, BlockSize = 16;
    private static readonly ElementType[] _caches = [ElementType.BF16, ElementType.F16, ElementType.E4M3, ElementType.E5M2, ElementType.S8, ElementType.F32];

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
                    foreach (DecodeTiling tiling in cache is ElementType.BF16 or ElementType.E4M3 && !hasBias ? (DecodeTiling[])[DecodeTiling.Default, new(4, 2), new(8, 2)] : [DecodeTiling.Default])
                    {
                        session.Stream.Fill(data.Attended, 0xff, 4L * Heads * HeadDim * sizeof(ushort));
                        var kernel = new DecodeAttentionKernel(kernels, shape, tiling: tiling);
                        kernel.Launch(session.Stream, data.Qkv, data.Attended, data.Layer, data.Rotary, data.Decoding(4, 2, 0, 1, 3), data.TakeZeros(kernel.WorkspaceBytes));
                        NoDifference(data.Difference([0, 1, 2, 3, 4]));
                    }
                });
            }
        }
    }

    public void Time(CheckSession session)
    {
        using var kernels = new KernelCache(session.Device);
        foreach (ElementType cache in (ElementType[])[ElementType.BF16, ElementType.E4M3, ElementType.S8])
        {
            foreach (bool hasBias in cache.Bytes() == 1 ? (bool[])[false, true] : [false])
            {
                var shape = new AttentionShape(ElementType.BF16, cache, Heads, KvHeads, HeadDim, BlockSize, HasKeyBias: hasBias);
                foreach ((int batch, int context) in (ReadOnlySpan<(int, int)>)[(1, 512), (1, 4096), (1, 32768), (1, 131072), (32, 512), (32, 4096), (32, 32768), (256, 640)])
                    TimeDecode(session, kernels, shape, batch, context);
            }
        }
    }

    // Several layers' caches in turn, so that L2 doesn't hold what is read.
    private static void TimeDecode(CheckSession session, KernelCache kernels, AttentionShape shape, int batch, int context)
    {
        long bytes = 2L * batch * context * KvHeads * HeadDim * shape.Cache.Bytes();
        int layers = (int)Math.Clamp((400L << 20) / bytes, 1, 64);
        using var step = new Step(session, shape, batch, 1, context, layers);
        Measure("", new DecodeAttentionKernel(kernels, shape));
        if (shape.Cache == ElementType.S8 || shape.HasKeyBias || (shape.Cache == ElementType.E4M3 && context < 32768))
            return;

        // What else it could be: tiles through shared memory, and registers with as much L1 as the driver gives.
        foreach ((DecodeTiling tiling, int perMultiprocessor) in ((DecodeTiling, int)[])[(new(4, 2), 3), (new(4, 2), 2), (new(4, 2), 1), (new(8, 0), 1), (new(8, 2), 1), (new(8, 3), 1)])
            Measure($", {tiling}, {perMultiprocessor} blocks", new DecodeAttentionKernel(kernels, shape, session.Device.Info.Multiprocessors * perMultiprocessor, tiling));
        Measure(", registers, 2 blocks", new DecodeAttentionKernel(kernels, shape, session.Device.Info.Multiprocessors * 2));
        var registers = new DecodeAttentionKernel(kernels, shape);
        SetShared(-1);
        Measure(", registers, the driver's L1", registers);
        SetShared(CudaModule.SharedPercent);

        void SetShared(int percent) => CudaDriver.FuncSetAttribute(((CudaFunction)registers.Function).Handle, FunctionAttribute.PreferredSharedMemoryCarveout, percent).Check();

        void Measure(string how, DecodeAttentionKernel kernel)
        {
            using DeviceBuffer workspace = session.Device.Allocate(kernel.WorkspaceBytes);
            session.Stream.Fill(workspace.Pointer, 0, kernel.WorkspaceBytes);
            double seconds = session.Seconds(() =>
            {
                for (int layer = 0; layer < layers; layer++)
                    kernel.Launch(session.Stream, step.Qkv, step.Attended, step.Layers[layer], step.Rotary, step.Decoding, workspace.Pointer);
            }) / layers;
            session.Measure($"decode {Describe(shape)}, batch {batch}, context {context}{how}: {seconds * 1e6:0.0} us", bytes / seconds / 1e9, "GB/s", session.CopyBandwidth / 1e9);
        }
    }

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
