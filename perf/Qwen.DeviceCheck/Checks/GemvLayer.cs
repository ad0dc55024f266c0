using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.DeviceCheck.Checks;

/// <summary>What becomes of the norms before qkv and before gate and up.</summary>
internal enum LayerNorms
{
    None,
    Kernels,
    Fused,
}

/// <summary>The weights of decoder layers whose products of few tokens run one after the other, as a network runs them, and their activations.</summary>
internal sealed class GemvLayer : IDisposable
{
    private const long CachedBytes = 200L << 20; // weights in turn are more than L2 holds

    private readonly CheckSession _session;
    private readonly KernelCache _cache;
    private readonly GemvWeights _form;
    private readonly DeviceBuffer _weights, _ones, _squares, _normed, _qkv, _activated;
    private readonly int _copies;
    private readonly long _layerBytes;

    public GemvLayer(CheckSession session, KernelCache cache, GemvWeights form, LayerShape shape)
    {
        (_session, _cache, _form, Shape) = (session, cache, form, shape);
        _layerBytes = shape.Parts.Sum(Place);
        _copies = Math.Max(2, (int)(CachedBytes / _layerBytes));
        _weights = session.Device.Allocate(_copies * _layerBytes);
        _ones = session.Upload<float>([.. Enumerable.Repeat(0.01f, 2 * shape.Intermediate)]);
        _squares = session.Device.Allocate(8L * (shape.Hidden / GemvTiling.TileOutputs) * sizeof(float));
        (Hidden, _normed, _qkv, _activated) = (Take(shape.Hidden * 2), Take(shape.Hidden), Take(Math.Max(shape.Qkv, shape.Hidden)), Take(shape.Intermediate));
        DevicePointer to = _weights.Pointer;
        foreach (LayerPart part in shape.Parts)
        {
            using DeviceBuffer values = session.Upload<byte>(form.Values(part));
            for (int copy = 0; copy < _copies; copy++)
            {
                for (long at = 0, bytes = form.Bytes(part); at < bytes; at += values.ByteCount)
                    session.Stream.Copy(to + (copy * _layerBytes) + at, values.Pointer, Math.Min(values.ByteCount, bytes - at));
            }

            session.Stream.Synchronize();
            to += Place(part);
        }

        DeviceBuffer Take(int columns) => session.Device.Allocate(8L * columns * sizeof(ushort));
    }

    public LayerShape Shape { get; }

    /// <summary>The residual stream, F32.</summary>
    public DeviceBuffer Hidden { get; }

    public double WeightBytes => Shape.Parts.Sum(_form.Bytes);

    /// <summary>The kernels that the engine would take.</summary>
    public LaunchGemv[] Products(LayerNorms norms) =>
        [.. Shape.Parts.Select(part => _form.Product(_cache, _session.Stream, part, _form.Tiling(part, _session.Device.Info), norms == LayerNorms.Fused ? part.Norm : FusedNorm.None).Launch)];

    /// <summary>What puts some layers on the stream; alone, each kernel ends before the next begins.</summary>
    public Action<bool> Chain(LaunchGemv[] products, int tokens, LayerNorms norms, int layers)
    {
        var norm = new RmsNormKernel(_cache, ElementType.BF16, Shape.Hidden);
        return alone =>
        {
            for (int layer = 0; layer < layers; layer++)
            {
                DevicePointer at = _weights.Pointer + (layer % _copies * _layerBytes);
                for (int i = 0; i < products.Length; i++)
                {
                    if (norms == LayerNorms.Kernels && i is 0 or 2)
                        Run(() => norm.Launch(_session.Stream, Hidden.Pointer, _ones.Pointer, 1e-6f, _normed.Pointer, tokens));
                    (DeviceBuffer x, DeviceBuffer y) = i switch { 0 => (_normed, _qkv), 1 => (_qkv, Hidden), 2 => (_normed, _activated), _ => (_activated, Hidden) };
                    DevicePointer w = at;
                    LaunchGemv product = products[i];
                    FusedNormArguments fused = norms == LayerNorms.Fused ? new(Shape.Parts[i].Norm, _squares.Pointer, 1e-6f, _ones.Pointer, _normed.Pointer) : default;
                    Run(() => product(w, _ones.Pointer, x.Pointer, y.Pointer, tokens, fused));
                    at += Place(Shape.Parts[i]);
                }
            }

            void Run(Action launch)
            {
                launch();
                if (alone)
                    _session.Stream.Synchronize();
            }
        };
    }

    /// <summary>Seconds of a layer, in a graph of some.</summary>
    public double Seconds(LaunchGemv[] products, int tokens, LayerNorms norms, int layers, int repeats = 9)
    {
        Action<bool> run = Chain(products, tokens, norms, layers);
        Reset();
        _session.Stream.BeginCapture();
        run(false);
        using IDeviceGraph graph = _session.Stream.EndCapture();
        return _session.Seconds(() => _session.Stream.Launch(graph), repeats) / layers;
    }

    /// <summary>The hidden state that a chain begins with.</summary>
    public void Reset()
    {
        using DeviceBuffer squares = _session.Upload<float>([.. Enumerable.Repeat(16f, (int)(_squares.ByteCount / sizeof(float)))]);
        using DeviceBuffer hidden = _session.Upload<byte>(SmallFloats.Random(new Random(3), ElementType.F32, 8 * Shape.Hidden).Bytes), normed = _session.Upload<byte>(SmallFloats.Random(new Random(4), ElementType.BF16, 8 * Shape.Hidden).Bytes);
        _session.Stream.Copy(_squares.Pointer, squares.Pointer, squares.ByteCount);
        _session.Stream.Copy(Hidden.Pointer, hidden.Pointer, hidden.ByteCount);
        _session.Stream.Copy(_normed.Pointer, normed.Pointer, normed.ByteCount);
        _session.Stream.Synchronize();
    }

    public void Dispose()
    {
        foreach (DeviceBuffer buffer in (DeviceBuffer[])[_weights, _ones, _squares, Hidden, _normed, _qkv, _activated])
            buffer.Dispose();
    }

    private long Place(LayerPart part) => (_form.Bytes(part) + 255) / 256 * 256;
}
