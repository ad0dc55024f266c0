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
    private const int Layers = 8, Passes = 2;
    private const double Least = 0.997; // of the time before: less is noise
    private static readonly TimeSpan _most = TimeSpan.FromSeconds(24);

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
        using var kernels = new Kernels(session, weights);
        kernels.Compile([.. parts.Zip(own)], mustFit: false);
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
                (LayerPart, GemvTiling)[] candidates = [.. (pass == 0 ? Candidates(weights, parts[i], session.Device.Info) : Neighbours(best[i])).Where(tiling => !times.ContainsKey((i, tiling))).Select(tiling => (parts[i], tiling))];
                if (isTime())
                    kernels.Compile(candidates, mustFit: true);
                foreach ((LayerPart part, GemvTiling candidate) in candidates)
                {
                    if (!isTime() || !kernels.Has(part, candidate))
                        continue;
                    GemvTiling[] chain = [.. best];
                    chain[i] = candidate;
                    double seconds = Seconds(chain, 1, 5);
                    times[(i, candidate)] = seconds;
                    if (seconds >= least * Least || (seconds = Seconds(chain, 1, 9)) >= least * Least)
                        continue;
                    session.Case($"{parts[i].Name} by {Text(candidate)}", () =>
                    {
                        CheckSession.True(AreClose(Result(chain), expected), "results are not those of the engine's own tiling");
                        (best, least) = (chain, seconds);
                    });
                }

                if (pass == Passes - 1)
                    session.Note($"{weights}, {shape.Model} {parts[i].Name}, us a layer: {string.Join(", ", times.Where(t => t.Key.Part == i).OrderBy(t => t.Value).Select(t => $"{Text(t.Key.Tiling)} {t.Value * 1e6:0.0}"))}");
            }
        }

        session.Note($"{weights}, {shape.Model}: {kernels.Count} kernels compiled in {kernels.Time.TotalSeconds:0.0} s");
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
            using var kernels = new Kernels(session, weights);
            kernels.Compile(chain, mustFit: false);
            CudaModule.SharedPercent = percent;
            double seconds = layer.Seconds(kernels.Chain([.. chain.Select(one => one.Part)], [.. chain.Select(one => one.Tiling)]), 1, LayerNorms.Fused, Layers);
            session.Note($"{weights}, {layer.Shape.Model}: {(other < 0 ? "shared memory as the driver divides it" : $"{other}% shared memory")}: {seconds * 1e6:0.0} us");
        }
    }

    /// <summary>What is worth a try: rings that fill a multiprocessor at least to a half.</summary>
    private static IEnumerable<GemvTiling> Candidates(GemvWeights weights, LayerPart part, DeviceInfo device)
    {
        bool many = part.Outputs / GemvTiling.TileOutputs >= 8 * device.Multiprocessors;
        (int Warps, int Blocks)[] shapes = many ? [(4, 3), (4, 4), (4, 5), (4, 6), (4, 8), (8, 2), (8, 3), (8, 4)] : [(4, 5), (4, 6), (4, 8), (8, 2), (8, 3), (8, 4), (16, 1), (16, 2)];
        foreach ((int warps, int blocks) in shapes)
        {
            foreach (int rowTiles in (int[])(weights.MayUseRegisters && warps * blocks == 16 ? [1, 2] : []))
            {
                if (rowTiles == 2 || !part.Gated)
                    yield return new GemvTiling(rowTiles, warps, 0, blocks);
            }

            foreach (int slots in (int[])[3, 4, 5, 6, 8])
            {
                var tiling = new GemvTiling(part.Gated ? 2 : 1, warps, slots, blocks, Turns: warps * blocks <= 20 ? 2 : 1);
                long ofMultiprocessor = blocks * (((long)warps * slots * tiling.RowTiles * weights.UnitBytes) + tiling.PartialBytes + 1024);
                if (ofMultiprocessor <= device.SharedMemoryPerMultiprocessor && ofMultiprocessor >= device.SharedMemoryPerMultiprocessor / 2)
                    yield return tiling;
            }
        }
    }

    /// <summary>What differs little from the best.</summary>
    private static IEnumerable<GemvTiling> Neighbours(GemvTiling tiling) => tiling.Slots == 0 ? [] :
    [
        tiling with { Turns = 3 - tiling.Turns }, tiling with { Slots = Math.Max(2, tiling.Slots - 1) }, tiling with { Slots = tiling.Slots + 1 },
        tiling with { Blocks = tiling.Blocks - 1 + (tiling.Blocks == 1 ? 2 : 0) }, tiling with { Rows = 2 }, tiling with { Rows = 3 },
    ];

    private static bool AreClose(float[] values, float[] expected)
    {
        float largest = expected.Where(float.IsFinite).Select(Math.Abs).DefaultIfEmpty().Max();
        return values.Zip(expected).All(pair => !float.IsFinite(pair.Second) || Math.Abs(pair.First - pair.Second) <= 0.02f * largest);
    }

    private static string Text(GemvTiling tiling) => tiling.Rows == 1 ? $"{tiling}" : $"{tiling} by {tiling.Rows} rows";

    /// <summary>Kernels, compiled on all cores; candidates that a device has no room for, or that spill, are left out.</summary>
    private sealed class Kernels(CheckSession session, GemvWeights weights) : IDisposable
    {
        private readonly ConcurrentDictionary<(LayerPart Part, GemvTiling Tiling), LaunchGemv> _kernels = [];
        private readonly ConcurrentBag<KernelCache> _caches = [];

        public int Count => _caches.Count;

        public TimeSpan Time { get; private set; }

        public void Compile((LayerPart Part, GemvTiling Tiling)[] wanted, bool mustFit)
        {
            long start = Stopwatch.GetTimestamp();
            Parallel.ForEach(wanted.Distinct().Where(one => !_kernels.ContainsKey(one)), one =>
            {
                var cache = new KernelCache(session.Device);
                _caches.Add(cache);
                try
                {
                    (Kernel kernel, LaunchGemv launch) = weights.Product(cache, session.Stream, one.Part, one.Tiling, one.Part.Norm);
                    if (!mustFit || kernel.Function.Resources.LocalBytes == 0)
                        _kernels[one] = launch;
                }
                catch (Exception e) when (mustFit && e is ArgumentOutOfRangeException or (DeviceException and not CudaException { ContextLost: true }))
                {
                    // More shared memory or registers than there are: no candidate.
                }
            });
            Time += Stopwatch.GetElapsedTime(start);
        }

        public bool Has(LayerPart part, GemvTiling tiling) => _kernels.ContainsKey((part, tiling));

        public LaunchGemv[] Chain(LayerPart[] parts, GemvTiling[] tilings) => [.. parts.Zip(tilings, (part, tiling) => _kernels[(part, tiling)])];

        public void Dispose()
        {
            foreach (KernelCache cache in _caches)
                cache.Dispose();
        }
    }
}
