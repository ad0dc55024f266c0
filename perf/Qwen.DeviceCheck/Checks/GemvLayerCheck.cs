using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.DeviceCheck.Checks;

/// <summary>
/// The products of a decoder layer of Qwen2.5-7B for few tokens as a network runs them: one after the other in a graph, each prefetching its weights
/// while the one before ends. Verified by the bits that the same kernels give one at a time; timed with the chosen tilings and with others.
/// </summary>
internal sealed class GemvLayerCheck : ICheck
{
    private const int Hidden = 3584, Intermediate = 18944, Copies = 2, Layers = 12; // two layers' weights in turn are more than L2 holds

    private static readonly Part[] _parts =
        [new("qkv", 4608, Hidden, Bias: true), new("output", Hidden, Hidden, Accumulate: true), new("gate and up", 2 * Intermediate, Hidden, Gated: true), new("down", Hidden, Intermediate, Accumulate: true)];

    // What else each part could be cut into.
    private static readonly (string Part, GemvTiling Tiling)[] _others =
    [
        ("gate and up", new(2, 4, 3, 3)), ("gate and up", new(2, 4, 3, 4)), ("gate and up", new(2, 4, 4, 2)), ("gate and up", new(2, 4, 5, 3)), ("gate and up", new(2, 4, 3, 8)), ("gate and up", new(2, 8, 3, 2)),
        ("down", new(1, 4, 4, 3)), ("down", new(1, 4, 8, 3)), ("down", new(1, 8, 3, 3)), ("down", new(1, 8, 5, 3)), ("down", new(1, 16, 3, 2)),
        ("output", new(1, 4, 4, 3)), ("output", new(1, 8, 3, 3)), ("output", new(1, 16, 3, 2)),
        ("qkv", new(1, 4, 4, 3)), ("qkv", new(1, 8, 3, 3)), ("qkv", new(1, 16, 3, 2)),
    ];

    public string Name => "gemv layers";

    public void Verify(CheckSession session)
    {
        using var cache = new KernelCache(session.Device);
        foreach (Weights weights in All())
        {
            using var memory = new Memory(session, weights);
            foreach ((int tokens, Norms norms) in from tokens in (int[])[1, 8] from norms in (Norms[])[Norms.Kernels, Norms.Fused] select (tokens, norms))
            {
                session.Case($"{weights}, {tokens}, norms: {norms}", () =>
                {
                    Action<bool> run = Chain(session, cache, weights, memory, tokens, null, norms, layers: 4);
                    byte[] Result(bool alone)
                    {
                        memory.Reset(session);
                        run(alone);
                        return session.Download<byte>(memory.Hidden, tokens * Hidden * sizeof(float));
                    }

                    byte[] expected = Result(alone: true);
                    CheckSession.True(expected.AsSpan().ContainsAnyExcept((byte)0), "all results are zero");
                    for (int i = 0; i < 5; i++)
                        CheckSession.True(Result(alone: false).AsSpan().SequenceEqual(expected), "kernels that overlap give other bits than kernels one at a time");
                });
            }
        }
    }

    public void Time(CheckSession session)
    {
        using var cache = new KernelCache(session.Device);
        foreach (Weights weights in All())
        {
            using var memory = new Memory(session, weights);
            double bytes = _parts.Sum(weights.Bytes);
            foreach (int tokens in (int[])[1, 4, 8])
                Measure($"{weights} layer, {tokens}", tokens, null, Norms.None);
            Measure($"{weights} layer with norms, 1", 1, null, Norms.Kernels);
            Measure($"{weights} layer with fused norms, 1", 1, null, Norms.Fused);
            foreach ((string part, GemvTiling tiling) in _others.Where(_ => weights.IsTuned))
                Measure($"{weights} layer, 1: {part} by {tiling} on {tiling.Blocks}, not {weights.Tiling(_parts.Single(p => p.Name == part), session.Device.Info)}", 1, (part, tiling), Norms.None);

            void Measure(string name, int tokens, (string, GemvTiling)? other, Norms norms)
            {
                Action<bool> run;
                try
                {
                    run = Chain(session, cache, weights, memory, tokens, other, norms, Layers);
                }
                catch (DeviceException)
                {
                    return; // more shared memory than a block can have
                }

                memory.Reset(session);
                run(false);
                session.Stream.BeginCapture();
                run(false);
                using IDeviceGraph graph = session.Stream.EndCapture();
                double seconds = session.Seconds(() => session.Stream.Launch(graph)) / Layers;
                session.Measure($"{name} ({seconds * 1e6:0.0} us)", bytes / seconds / 1e9, "GB/s", session.CopyBandwidth / 1e9);
            }
        }
    }

    private static Weights[] All() =>
    [
        new PackedLayer(new PackedFormat(4, 128, PackedOffset.ZeroPoint)), new PackedLayer(new PackedFormat(4, 32, PackedOffset.Minimum)),
        new DenseLayer(ElementType.E4M3, MatmulScale.Row), new DenseLayer(ElementType.BF16, MatmulScale.None),
    ];

    /// <summary>What puts some layers on the stream; alone, each kernel ends before the next begins.</summary>
    private static Action<bool> Chain(CheckSession session, KernelCache cache, Weights weights, Memory memory, int tokens, (string Part, GemvTiling Tiling)? other, Norms norms, int layers)
    {
        GemvTiling[] tilings = [.. _parts.Select(part => other is { } o && o.Part == part.Name ? o.Tiling : weights.Tiling(part, session.Device.Info))];
        Launch[] products = [.. _parts.Zip(tilings, (part, tiling) => weights.Product(cache, session.Stream, part, tiling, norms != Norms.Fused ? FusedNorm.None : HalfOf(part)))];
        var norm = new RmsNormKernel(cache, ElementType.BF16, Hidden);
        return alone =>
        {
            for (int layer = 0; layer < layers; layer++)
            {
                DevicePointer at = memory.Weights.Pointer + (layer % Copies * memory.LayerBytes);
                for (int i = 0; i < products.Length; i++)
                {
                    if (norms == Norms.Kernels && i is 0 or 2)
                        Run(() => norm.Launch(session.Stream, memory.Hidden.Pointer, memory.Ones.Pointer, 1e-6f, memory.Normed.Pointer, tokens));
                    (DeviceBuffer x, DeviceBuffer y) = i switch { 0 => (memory.Normed, memory.Qkv), 1 => (memory.Qkv, memory.Hidden), 2 => (memory.Normed, memory.Activated), _ => (memory.Activated, memory.Hidden) };
                    DevicePointer w = at;
                    Launch product = products[i];
                    FusedNormArguments fused = norms == Norms.Fused ? new(HalfOf(_parts[i]), memory.Squares.Pointer, 1e-6f, memory.Ones.Pointer, memory.Normed.Pointer) : default;
                    Run(() => product(w, memory.Ones.Pointer, x.Pointer, y.Pointer, tokens, fused));
                    at += memory.Place(_parts[i]);
                }
            }

            void Run(Action launch)
            {
                launch();
                if (alone)
                    session.Stream.Synchronize();
            }
        };
    }

    private static FusedNorm HalfOf(Part part) => part.Accumulate ? FusedNorm.OfResult : FusedNorm.OfInput;

    /// <summary>What becomes of the norms before qkv and before gate and up.</summary>
    private enum Norms
    {
        None,
        Kernels,
        Fused,
    }

    /// <summary>y from x, and the weights, with ones as scales and biases.</summary>
    private delegate void Launch(DevicePointer weights, DevicePointer ones, DevicePointer x, DevicePointer y, int tokens, in FusedNormArguments norm);

    private sealed record Part(string Name, int Outputs, int Inputs, bool Bias = false, bool Accumulate = false, bool Gated = false);

    /// <summary>A form of weights.</summary>
    private abstract class Weights
    {
        public abstract long Bytes(Part part);

        public abstract GemvTiling Tiling(Part part, DeviceInfo device);

        public abstract Launch Product(KernelCache cache, IDeviceStream stream, Part part, GemvTiling tiling, FusedNorm norm);

        /// <summary>Bytes that stand for small weights, over and over.</summary>
        public abstract byte[] Values(Part part);

        /// <summary>Whether other tilings are of interest.</summary>
        public virtual bool IsTuned => false;

        protected static ElementType Result(Part part) => part.Accumulate ? ElementType.F32 : ElementType.BF16;
    }

    private sealed class PackedLayer(PackedFormat format) : Weights
    {
        public override bool IsTuned => format.GroupSize == 128;

        public override long Bytes(Part part) => Matrix(part).ByteCount;

        public override GemvTiling Tiling(Part part, DeviceInfo device) => PackedGemvKernel.TilingFor(ProductOf(part), Matrix(part), device);

        public override Launch Product(KernelCache cache, IDeviceStream stream, Part part, GemvTiling tiling, FusedNorm norm)
        {
            PackedMatrix matrix = Matrix(part);
            var kernel = new PackedGemvKernel(cache, ProductOf(part) with { Norm = norm }, tiling);
            return (weights, ones, x, y, tokens, in fused) => kernel.Launch(stream, matrix, weights, x, ones, y, tokens, fused);
        }

        public override byte[] Values(Part part)
        {
            PackedMatrix matrix = Matrix(part);
            var values = new byte[matrix.ByteCount];
            var random = new Random(part.Outputs);
            random.NextBytes(values.AsSpan(0, (int)matrix.CodeBytes));
            for (int i = (int)matrix.CodeBytes; i < values.Length; i += 2)
                BitConverter.TryWriteBytes(values.AsSpan(i), (Half)(random.NextSingle() * 0.01f)); // scales, and offsets of their size
            return values;
        }

        public override string ToString() => format.ToString();

        private PackedMatrix Matrix(Part part) => new(part.Outputs, part.Inputs, format);

        private PackedProduct ProductOf(Part part) => new(format, ElementType.BF16, Result(part), part.Accumulate, part.Bias, part.Gated);
    }

    private sealed class DenseLayer(ElementType type, MatmulScale scale) : Weights
    {
        public override bool IsTuned => type == ElementType.E4M3;

        public override long Bytes(Part part) => (long)part.Outputs * part.Inputs * type.Bytes();

        public override GemvTiling Tiling(Part part, DeviceInfo device) => DenseGemvKernel.TilingFor(ProductOf(part), part.Outputs, part.Inputs, device);

        public override Launch Product(KernelCache cache, IDeviceStream stream, Part part, GemvTiling tiling, FusedNorm norm)
        {
            var kernel = new DenseGemvKernel(cache, ProductOf(part) with { Norm = norm }, tiling);
            return (weights, ones, x, y, tokens, in fused) => kernel.Launch(stream, weights, ones, x, ones, y, part.Outputs, part.Inputs, tokens, fused);
        }

        public override byte[] Values(Part part) => SmallFloats.Random(new Random(part.Outputs), type, 1 << 20).Bytes;

        public override string ToString() => $"{type} {scale}";

        private DenseProduct ProductOf(Part part) => new(type, ElementType.BF16, Result(part), scale, part.Accumulate, part.Bias, part.Gated);
    }

    /// <summary>The weights of some layers, and activations.</summary>
    private sealed class Memory : IDisposable
    {
        private readonly Weights _form;

        public Memory(CheckSession session, Weights form)
        {
            _form = form;
            LayerBytes = _parts.Sum(Place);
            Weights = session.Device.Allocate(Copies * LayerBytes);
            Ones = session.Upload<float>([.. Enumerable.Repeat(0.01f, 2 * Intermediate)]);
            Squares = session.Device.Allocate(8L * (GemvLayerCheck.Hidden / GemvTiling.TileOutputs) * sizeof(float));
            (Hidden, Normed, Qkv, Activated) = (Take(GemvLayerCheck.Hidden * 2), Take(GemvLayerCheck.Hidden), Take(4608), Take(Intermediate));
            DevicePointer to = Weights.Pointer;
            foreach (Part part in _parts)
            {
                using DeviceBuffer values = session.Upload<byte>(form.Values(part));
                for (int copy = 0; copy < Copies; copy++)
                {
                    for (long at = 0, bytes = form.Bytes(part); at < bytes; at += values.ByteCount)
                        session.Stream.Copy(to + (copy * LayerBytes) + at, values.Pointer, Math.Min(values.ByteCount, bytes - at));
                }

                session.Stream.Synchronize();
                to += Place(part);
            }

            DeviceBuffer Take(int columns) => session.Device.Allocate(8L * columns * sizeof(ushort));
        }

        public DeviceBuffer Weights { get; }

        public DeviceBuffer Ones { get; }

        public DeviceBuffer Squares { get; }

        public DeviceBuffer Hidden { get; }

        public DeviceBuffer Normed { get; }

        public DeviceBuffer Qkv { get; }

        public DeviceBuffer Activated { get; }

        public long LayerBytes { get; }

        public long Place(Part part) => (_form.Bytes(part) + 255) / 256 * 256;

        /// <summary>The hidden state that a chain begins with.</summary>
        public void Reset(CheckSession session)
        {
            using DeviceBuffer squares = session.Upload<float>([.. Enumerable.Repeat(16f, (int)(Squares.ByteCount / sizeof(float)))]);
            using DeviceBuffer hidden = session.Upload<byte>(SmallFloats.Random(new Random(3), ElementType.F32, 8 * GemvLayerCheck.Hidden).Bytes), normed = session.Upload<byte>(SmallFloats.Random(new Random(4), ElementType.BF16, 8 * GemvLayerCheck.Hidden).Bytes);
            session.Stream.Copy(Squares.Pointer, squares.Pointer, squares.ByteCount);
            session.Stream.Copy(Hidden.Pointer, hidden.Pointer, hidden.ByteCount);
            session.Stream.Copy(Normed.Pointer, normed.Pointer, normed.ByteCount);
            session.Stream.Synchronize();
        }

        public void Dispose()
        {
            foreach (DeviceBuffer buffer in (DeviceBuffer[])[Weights, Ones, Squares, Hidden, Normed, Qkv, Activated])
                buffer.Dispose();
        }
    }
}
