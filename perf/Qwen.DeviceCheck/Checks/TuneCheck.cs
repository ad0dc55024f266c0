using System.Collections.Concurrent;
using System.Diagnostics;
using Qwen.Native.Device;
using Qwen.Native.Interop;
using Qwen.Native.Kernels;

namespace Qwen.DeviceCheck.Checks;

/// <summary>
/// Finds the tilings of products of few tokens by measurement, a product after the other within a chain of decoder layers (coordinate descent), as what
/// is best alone isn't best between others. What wins gives the results that the engine's own choice gives, and is what networks use after this check.
/// </summary>
internal sealed class TuneCheck : ICheck
{
    private const int Layers = 8, Passes = 2, Kept = 4; // candidates for the second pass
    private const double Least = 0.997; // of the time before: less is noise
    private static readonly TimeSpan _most = TimeSpan.FromSeconds(28);

    public string Name => "tune";

    public void Verify(CheckSession session)
    {
    }

    public void Time(CheckSession session)
    {
        long start = Stopwatch.GetTimestamp();
        GemvWeights[] all = GemvWeights.All;
        foreach ((GemvWeights weights, LayerShape shape) in ((GemvWeights, LayerShape)[])[(all[0], LayerShape.Large), (all[3], LayerShape.Large), (all[2], LayerShape.Large), (all[3], LayerShape.Small), (all[1], LayerShape.Large)])
        {
            if (Stopwatch.GetElapsedTime(start) < _most)
                session.Case($"{weights}, {shape.Model}", () => Tune(session, weights, shape, () => Stopwatch.GetElapsedTime(start) < _most));
        }
    }

    private static void Tune(CheckSession session, GemvWeights weights, LayerShape shape, Func<bool> isTime)
    {
        using var cache = new KernelCache(session.Device);
        using var layer = new GemvLayer(session, cache, weights, shape);
        LayerPart[] parts = shape.Parts;
        foreach (LayerPart part in parts)
            weights.Tune(part, null);
        GemvTiling[] best = [.. parts.Select(part => weights.Tiling(part, session.Device.Info))];
        GemvTiling[] own = [.. best];
        long start = Stopwatch.GetTimestamp();
        using var kernels = new Kernels(session, weights, [.. parts.Zip(own).SelectMany(pair => Candidates(weights, pair.First, session.Device.Info).Prepend(pair.Second).Distinct().Select(tiling => (pair.First, tiling)))]);
        session.Note($"{weights}, {shape.Model}: {kernels.Count} kernels compiled in {Stopwatch.GetElapsedTime(start).TotalSeconds:0.0} s");
        float[] expected = Result(own);
        session.Note($"{expected.Count(float.IsFinite)} of {expected.Length} values to compare with are finite");
        double before = Seconds(own, 1, 9), beforeAtEight = Seconds(own, 8, 9);
        var times = new Dictionary<(int Part, GemvTiling Tiling), double>();
        for (int pass = 0; pass < Passes; pass++)
        {
            foreach (int i in (int[])[2, 3, 0, 1]) // the largest first
            {
                double least = Seconds(best, 1, 9);
                times[(i, best[i])] = least;
                GemvTiling[] candidates = pass == 0 ? kernels.Of(parts[i]) : [.. times.Where(t => t.Key.Part == i).OrderBy(t => t.Value).Take(Kept).Select(t => t.Key.Tiling)];
                foreach (GemvTiling candidate in candidates.Where(tiling => tiling != best[i] && isTime()).ToArray())
                {
                    GemvTiling[] chain = [.. best];
                    chain[i] = candidate;
                    double seconds = Seconds(chain, 1, 5);
                    times[(i, candidate)] = seconds;
                    if (seconds >= least * Least || (seconds = Seconds(chain, 1, 9)) >= least * Least)
                        continue;
                    if (!AreClose(Result(chain), expected))
                        throw new CheckFailedException($"{parts[i].Name} by {Text(candidate)} gives other results");
                    (best, least) = (chain, seconds);
                }

                if (pass == 0)
                    session.Note($"{weights}, {shape.Model} {parts[i].Name}, us a layer: {string.Join(", ", times.Where(t => t.Key.Part == i).OrderBy(t => t.Value).Select(t => $"{Text(t.Key.Tiling)} {t.Value * 1e6:0.0}"))}");
            }
        }

        double bytes = layer.WeightBytes;
        foreach ((string name, double seconds) in ((string, double)[])[("own tilings, 1", before), ("tuned, 1", Seconds(best, 1, 9)), ("own tilings, 8", beforeAtEight), ("tuned, 8", Seconds(best, 8, 9))])
            session.Measure($"{weights}, {shape.Model}, {name} ({seconds * 1e6:0.0} us)", bytes / seconds / 1e9, "GB/s", session.CopyBandwidth / 1e9);
        for (int i = 0; i < parts.Length; i++)
        {
            weights.Tune(parts[i], best[i]);
            session.Note($"({parts[i].Outputs}, {parts[i].Inputs}) => new({best[i].RowTiles}, {best[i].Warps}, {best[i].Slots}, {best[i].Blocks}, {best[i].Turns}, {best[i].Rows}), // {weights} {shape.Model} {parts[i].Name}, was {Text(own[i])}");
        }

        CompareSharedMemory(session, weights, layer, [.. parts.Zip(best)]);

        double Seconds(GemvTiling[] tilings, int tokens, int repeats) => layer.Seconds(kernels.Chain(parts, tilings), tokens, LayerNorms.Fused, Layers, repeats);

        float[] Result(GemvTiling[] tilings)
        {
            layer.Reset();
            layer.Chain(kernels.Chain(parts, tilings), 8, LayerNorms.Fused, layers: 2)(false);
            return session.Download<float>(layer.Hidden, 8 * shape.Hidden);
        }
    }

    /// <summary>The same kernels where they ask for all of a multiprocessor's memory as shared memory, and where the driver divides it.</summary>
    private static void CompareSharedMemory(CheckSession session, GemvWeights weights, GemvLayer layer, (LayerPart Part, GemvTiling Tiling)[] chain)
    {
        int percent = CudaModule.SharedPercent;
        foreach (int other in (int[])[100, -1])
        {
            CudaModule.SharedPercent = other;
            using var kernels = new Kernels(session, weights, chain);
            CudaModule.SharedPercent = percent;
            double seconds = layer.Seconds(kernels.Chain([.. chain.Select(one => one.Part)], [.. chain.Select(one => one.Tiling)]), 1, LayerNorms.Fused, Layers);
            session.Note($"{weights}, {layer.Shape.Model}: {(other < 0 ? "shared memory as the driver divides it" : $"{other}% shared memory")}: {seconds * 1e6:0.0} us");
        }
    }

    /// <summary>What is worth a try: rings that fill a multiprocessor at least to a third.</summary>
    private static IEnumerable<GemvTiling> Candidates(GemvWeights weights, LayerPart part, DeviceInfo device)
    {
        int tiles = part.Outputs / GemvTiling.TileOutputs, perMultiprocessor = tiles / device.Multiprocessors;
        bool many = part.Gated && perMultiprocessor >= 8;
        (int Warps, int Blocks)[] shapes = many ? [(4, 3), (4, 4), (4, 5), (4, 6), (4, 8), (8, 2), (8, 3), (8, 4)] : [(4, 5), (4, 6), (4, 8), (8, 2), (8, 3), (8, 4), (16, 1), (16, 2)];
        foreach ((int warps, int blocks) in shapes)
        {
            int most = 0;
            foreach (int slots in (int[])[3, 4, 5, 6, 8])
            {
                var tiling = new GemvTiling(part.Gated ? 2 : 1, warps, slots, blocks);
                long ofMultiprocessor = blocks * (((long)warps * slots * tiling.RowTiles * weights.UnitBytes) + tiling.PartialBytes + 1024);
                if (ofMultiprocessor <= device.SharedMemoryPerMultiprocessor)
                    most = slots;
                if (ofMultiprocessor > device.SharedMemoryPerMultiprocessor || ofMultiprocessor < device.SharedMemoryPerMultiprocessor / 2)
                    continue;
                foreach (int turns in warps * blocks <= 24 ? (int[])[1, 2] : [1])
                    yield return tiling with { Turns = turns };
            }

            if (many && most > 0) // fewer blocks, whose rings run on
                yield return new GemvTiling(2, warps, most, blocks, 1, Rows: 2);
        }
    }

    private static bool AreClose(float[] values, float[] expected)
    {
        float largest = expected.Where(float.IsFinite).Select(Math.Abs).DefaultIfEmpty().Max();
        return values.Zip(expected).All(pair => !float.IsFinite(pair.Second) || Math.Abs(pair.First - pair.Second) <= 0.02f * largest);
    }

    private static string Text(GemvTiling tiling) => tiling.Rows == 1 ? $"{tiling}" : $"{tiling} by {tiling.Rows} rows";

    /// <summary>Kernels of all candidates, compiled on all cores; those that a device has no room for, or that spill, are left out.</summary>
    private sealed class Kernels : IDisposable
    {
        private readonly ConcurrentDictionary<(LayerPart Part, GemvTiling Tiling), LaunchGemv> _kernels = [];
        private readonly ConcurrentBag<KernelCache> _caches = [];
        private readonly ConcurrentQueue<string> _refused = [];

        public Kernels(CheckSession session, GemvWeights weights, (LayerPart Part, GemvTiling Tiling)[] wanted)
        {
            Parallel.ForEach(wanted, one =>
            {
                var cache = new KernelCache(session.Device);
                _caches.Add(cache);
                try
                {
                    (Kernel kernel, LaunchGemv launch) = weights.Product(cache, session.Stream, one.Part, one.Tiling, one.Part.Norm);
                    if (kernel.Function.Resources.LocalBytes == 0)
                        _kernels[one] = launch;
                }
                catch (DeviceException e) when (e is not CudaException { ContextLost: true })
                {
                    _refused.Enqueue($"{one.Part.Name} by {Text(one.Tiling)}: {e.Message}");
                }
            });
            foreach (string reason in _refused)
                session.Note(reason);
        }

        public int Count => _kernels.Count;

        public GemvTiling[] Of(LayerPart part) => [.. _kernels.Keys.Where(key => key.Part == part).Select(key => key.Tiling).OrderBy(Text)];

        public LaunchGemv[] Chain(LayerPart[] parts, GemvTiling[] tilings) => [.. parts.Zip(tilings, (part, tiling) => _kernels[(part, tiling)])];

        public void Dispose()
        {
            foreach (KernelCache cache in _caches)
                cache.Dispose();
        }
    }
}
