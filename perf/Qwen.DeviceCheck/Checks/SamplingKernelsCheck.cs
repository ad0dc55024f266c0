using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Kernels.Sampling;

namespace Qwen.DeviceCheck.Checks;

/// <summary>The kernels that choose tokens, over a whole vocabulary: what is drawn lies where the random number says, then the time of a row and of many.</summary>
internal sealed class SamplingKernelsCheck : ICheck
{
    private const int Vocabulary = 152064, MostRows = 64;

    public string Name => "sampling kernels";

    public void Verify(CheckSession session)
    {
        using var cache = new KernelCache(session.Device);
        float[] logits = Logits(2);
        using DeviceBuffer input = session.Upload<float>(logits), tokens = session.Upload<int>(new int[2]), scratch = session.Upload<byte>(new byte[2 * SampleKernels.ScratchBytes]);
        int[][] order = [.. logits.Chunk(Vocabulary).Select(row => Enumerable.Range(0, Vocabulary).OrderByDescending(i => row[i]).ToArray())];
        session.Case("argmax", () =>
        {
            var argmax = new ArgmaxKernel(cache, Vocabulary);
            for (int repeat = 0; repeat < 3; repeat++) // it cleans up after itself
            {
                argmax.Launch(session.Stream, input.Pointer, tokens.Pointer, scratch.Pointer, 2);
                CheckSession.True(session.Download<int>(tokens, 2).SequenceEqual(order.Select(row => row[0])), "not the largest");
            }
        });
        var sample = new SampleKernels(cache, Vocabulary);
        foreach ((string name, float temperature, int topK, float topP, float minP) in ((string, float, int, float, float)[])[
            ("no filter", 1, 0, 1, 0), ("top-k 50, top-p 0.9", 0.8f, 50, 0.9f, 0), ("top-p 0.9", 0.8f, 0, 0.9f, 0), ("top-p 0.99 of a flat row", 20, 0, 0.99f, 0), ("top-p 0.5 of an all but even row", 1e4f, 0, 0.5f, 0),
            ("min-p 0.05", 1, 0, 1, 0.05f), ("top-k 1000", 1, 1000, 1, 0)])
        {
            session.Case(name, () =>
            {
                foreach (double uniform in (double[])[0, 0.3, 0.7, 0.999])
                {
                    using DeviceBuffer rows = session.Upload<SamplingRow>([.. Enumerable.Repeat(new SamplingRow(temperature, topK, topP, minP, uniform), 2)]);
                    sample.Launch(session.Stream, input.Pointer, rows.Pointer, tokens.Pointer, scratch.Pointer, 2);
                    int[] drawn = session.Download<int>(tokens, 2);
                    for (int r = 0; r < 2; r++)
                    {
                        // Where nothing is filtered the sum runs by id, else by falling weight.
                        bool isFiltered = topK > 0 || topP < 1 || minP > 0;
                        int[] tokensInOrder = isFiltered ? order[r] : [.. Enumerable.Range(0, Vocabulary)];
                        double[] weights = [.. tokensInOrder.Select(i => Math.Exp((logits[(r * Vocabulary) + i] - logits[(r * Vocabulary) + order[r][0]]) / temperature))];
                        double[] kept = [.. weights.Where(w => w >= minP).Take(topK > 0 ? topK : Vocabulary)];
                        double total = kept.Sum() * topP, nucleus = 0;
                        foreach (double weight in kept.TakeWhile(_ => nucleus < total))
                            nucleus += weight;
                        int place = Array.IndexOf(tokensInOrder, drawn[r]);
                        double before = weights.Take(place).Sum(), after = before + weights[place];
                        CheckSession.True(
                            before <= (uniform + 1e-4) * nucleus && after >= (uniform - 1e-4) * nucleus, $"row {r}: {uniform} drew the token of place {place}, from {before / nucleus} to {after / nucleus}");
                    }
                }
            });
        }
    }

    public void Time(CheckSession session)
    {
        using var cache = new KernelCache(session.Device);
        using DeviceBuffer input = session.Upload<float>(Logits(MostRows)), tokens = session.Upload<int>(new int[MostRows]), scratch = session.Upload<byte>(new byte[MostRows * SampleKernels.ScratchBytes]);
        var argmax = new ArgmaxKernel(cache, Vocabulary);
        var sample = new SampleKernels(cache, Vocabulary);
        foreach (int count in (int[])[1, MostRows])
        {
            session.Measure($"argmax, {count} rows", session.Seconds(() => argmax.Launch(session.Stream, input.Pointer, tokens.Pointer, scratch.Pointer, count)) * 1e6, "us");
            // Beside what they are to take.
            foreach ((string name, SamplingRow row, double most) in ((string, SamplingRow, double)[])[
                ("no filter", new(1, 0, 1, 0, 0.5), 25), ("top-k 20, top-p 0.8", new(0.7f, 20, 0.8f, 0, 0.5), 25), ("top-p 0.95", new(1, 0, 0.95f, 0, 0.5), 60),
                ("top-p 0.99 of a flat row", new(20, 0, 0.99f, 0, 0.5), 60), ("min-p 0.05", new(1, 0, 1, 0.05f, 0.5), 60)])
            {
                using DeviceBuffer rows = session.Upload<SamplingRow>([.. Enumerable.Repeat(row, count)]);
                session.Measure($"sample, {name}, {count} rows", session.Seconds(() => sample.Launch(session.Stream, input.Pointer, rows.Pointer, tokens.Pointer, scratch.Pointer, count)) * 1e6, "us", most);
            }
        }
    }

    /// <summary>Logits like a network's: most far below a few.</summary>
    private static float[] Logits(int rows)
    {
        var random = new Random(3);
        return [.. Enumerable.Range(0, rows * Vocabulary).Select(_ => (float)(Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble()) * 3))];
    }
}
