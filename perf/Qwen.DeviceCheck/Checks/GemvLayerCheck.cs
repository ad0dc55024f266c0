using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.DeviceCheck.Checks;

/// <summary>
/// The products of a decoder layer of Qwen2.5-7B for few tokens as a network runs them: one after the other in a graph, each prefetching its weights
/// while the one before ends. Verified by the bits that the same kernels give one at a time; timed with the chosen tilings and with others.
/// </summary>
internal sealed class GemvLayerCheck : ICheck
{
    private const int Layers = 12;

    public string Name => "gemv layers";

    public void Verify(CheckSession session)
    {
        using var cache = new KernelCache(session.Device);
        foreach (GemvWeights weights in GemvWeights.All)
        {
            using var layer = new GemvLayer(session, cache, weights, LayerShape.Large);
            foreach ((int tokens, LayerNorms norms) in from tokens in (int[])[1, 8] from norms in (LayerNorms[])[LayerNorms.Kernels, LayerNorms.Fused] select (tokens, norms))
            {
                session.Case($"{weights}, {tokens}, norms: {norms}", () =>
                {
                    Action<bool> run = layer.Chain(layer.Products(norms), tokens, norms, layers: 4);
                    byte[] Result(bool alone)
                    {
                        layer.Reset();
                        run(alone);
                        return session.Download<byte>(layer.Hidden, tokens * layer.Shape.Hidden * sizeof(float));
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
        foreach (GemvWeights weights in GemvWeights.All)
        {
            using var layer = new GemvLayer(session, cache, weights, LayerShape.Large);
            foreach (int tokens in (int[])[1, 4, 8])
                Measure($"{weights} layer, {tokens}", tokens, LayerNorms.None);
            Measure($"{weights} layer with norms, 1", 1, LayerNorms.Kernels);
            Measure($"{weights} layer with fused norms, 1", 1, LayerNorms.Fused);

            void Measure(string name, int tokens, LayerNorms norms)
            {
                double seconds = layer.Seconds(layer.Products(norms), tokens, norms, Layers);
                session.Measure($"{name} ({seconds * 1e6:0.0} us)", layer.WeightBytes / seconds / 1e9, "GB/s", session.CopyBandwidth / 1e9);
            }
        }
    }
}
