using Qwen.Native.Device;
using Qwen.Native.Kernels.Sampling;
using Qwen.Native.Ptx;

namespace Qwen.Native.Tests.Kernels;

/// <summary>Kernels that choose tokens, against the sampler's rules written plainly, in double precision and with a sort.</summary>
public sealed class SamplingKernelTests
{
    [Theory]
    [InlineData(1, 1)]
    [InlineData(7, 3)] // no multiple of 4
    [InlineData(1000, 40)]
    [InlineData(20000, 1)] // several blocks share the row
    [InlineData(20003, 2)]
    public void Argmax_TakesTheLargest_TheLowestOfEquals(int vocabulary, int rows)
    {
        using var machine = new KernelMachine();
        DeviceBuffer scratch = machine.Buffer<byte>(new byte[rows * ArgmaxKernel.ScratchBytes]), tokens = machine.Empty(ElementType.S32, rows);
        var kernel = new ArgmaxKernel(machine.Cache, vocabulary);
        for (int repeat = 0; repeat < 2; repeat++)
        {
            float[] logits = [.. Enumerable.Range(0, rows * vocabulary).Select(_ => (float)machine.Random.Next(-9, 9) / 2)]; // equals, and zeros
            kernel.Launch(machine.Stream, machine.Buffer<float>(logits).Pointer, tokens.Pointer, scratch.Pointer, rows);

            machine.AssertEqual<int>([.. logits.Chunk(vocabulary).Select(row => Array.IndexOf(row, row.Max()))], machine.Read<int>(tokens), "tokens");
            Assert.All(machine.Read<byte>(scratch), value => Assert.Equal(0, value));
        }
    }

    [Theory]
    [InlineData(0x7fc00000u)] // NaN
    [InlineData(0xffc00000u)] // NaN with a sign
    [InlineData(0x7f800000u)] // infinity
    public void ALogitThatIsNotFinite_IsReported(uint bad)
    {
        using var machine = new KernelMachine();
        const int Vocabulary = 9000;
        float[] logits = machine.Values(ElementType.F32, 2 * Vocabulary);
        logits[4321] = BitConverter.UInt32BitsToSingle(bad);
        logits[Vocabulary + 3] = float.NegativeInfinity; // a banned token is none to report
        DeviceBuffer input = machine.Buffer<float>(logits), tokens = machine.Empty(ElementType.S32, 2);
        int[] expected = [~4321, Array.IndexOf(logits, logits[Vocabulary..].Max(), Vocabulary) - Vocabulary];

        new ArgmaxKernel(machine.Cache, Vocabulary).Launch(machine.Stream, input.Pointer, tokens.Pointer, machine.Buffer<byte>(new byte[32]).Pointer, 2);
        machine.AssertEqual<int>(expected, machine.Read<int>(tokens), "argmax");

        SamplingRow[] rows = [new(1, 20, 0.9f, 0, 0.5), new(0, 0, 1, 0, 0)];
        new SampleKernels(machine.Cache, Vocabulary).Launch(machine.Stream, input.Pointer, machine.Buffer<SamplingRow>(rows).Pointer, tokens.Pointer, machine.Buffer<byte>(new byte[2 * SampleKernels.ScratchBytes]).Pointer, 2);
        machine.AssertEqual<int>(expected, machine.Read<int>(tokens), "sample");
    }

    [Theory]
    [InlineData(997, 1000)]
    [InlineData(995, 999)]
    [InlineData(4097, 8200)]
    public void WhatPadsARow_IsNoToken(int vocabulary, int stride)
    {
        using var machine = new KernelMachine();
        const int Rows = 2, Most = 3;
        float[] logits = machine.Values(ElementType.F32, Rows * stride, 3), narrow = [.. logits.Where((_, i) => i % stride < vocabulary)];
        for (int i = 0; i < logits.Length; i++)
            logits[i] = i % stride < vocabulary ? logits[i] : i % 2 == 0 ? float.NaN : 1000;
        SamplingRow[] rows = [new(1, 0, 1, 0, machine.Random.NextDouble()), new(1, 40, 0.9f, 0, machine.Random.NextDouble())];

        ((int[] ids, float[] logprobs), (int[] otherIds, float[] otherLogprobs)) = (Run(narrow, null), Run(logits, stride));
        machine.AssertEqual<int>(ids, otherIds, "tokens");
        machine.AssertClose(logprobs, otherLogprobs, 2e-6f, 1, "logprobs"); // sums of another order

        (int[], float[]) Run(float[] values, int? stride)
        {
            DeviceBuffer input = machine.Buffer<float>(values), best = machine.Empty(ElementType.S32, Rows), drawn = machine.Empty(ElementType.S32, Rows);
            DeviceBuffer chosen = machine.Empty(ElementType.F32, Rows), topTokens = machine.Empty(ElementType.S32, Rows * Most), top = machine.Empty(ElementType.F32, Rows * Most);
            new ArgmaxKernel(machine.Cache, vocabulary, stride).Launch(machine.Stream, input.Pointer, best.Pointer, machine.Buffer<byte>(new byte[Rows * ArgmaxKernel.ScratchBytes]).Pointer, Rows);
            new SampleKernels(machine.Cache, vocabulary, stride).Launch(machine.Stream, input.Pointer, machine.Buffer<SamplingRow>(rows).Pointer, drawn.Pointer, machine.Buffer<byte>(new byte[Rows * SampleKernels.ScratchBytes]).Pointer, Rows);
            new LogprobsKernel(machine.Cache, vocabulary, Most, stride).Launch(machine.Stream, input.Pointer, drawn.Pointer, chosen.Pointer, topTokens.Pointer, top.Pointer, Rows);
            return ([.. machine.Read<int>(best), .. machine.Read<int>(drawn), .. machine.Read<int>(topTokens)], [.. machine.Read<float>(chosen), .. machine.Read<float>(top)]);
        }
    }

    [Fact]
    public void Penalties_ChangeTheTokensListed()
    {
        using var machine = new KernelMachine();
        const int Vocabulary = 1000, Rows = 3;
        float[] logits = machine.Values(ElementType.F32, Rows * Vocabulary, 3), expected = [.. logits];
        var seen = new List<(int Token, int Times)>();
        var biases = new List<(int Token, float Bias)>();
        var rows = new PenaltyRow[Rows];
        for (int r = 0; r < Rows; r++)
        {
            int[] tokens = [.. Enumerable.Range(0, Vocabulary)];
            machine.Random.Shuffle(tokens);
            int firstSeen = seen.Count, firstBias = biases.Count;
            seen.AddRange(tokens.Take(r == 1 ? 0 : 400).Select(token => (token, machine.Random.Next(4))));
            machine.Random.Shuffle(tokens);
            biases.AddRange(tokens.Take(r == 2 ? 0 : 50).Select((token, i) => (token, i % 5 == 0 ? -100f : machine.Random.NextSingle() * 8)));
            rows[r] = new PenaltyRow(firstSeen, seen.Count - firstSeen, firstBias, biases.Count - firstBias, 1.3f, 0.4f, 0.25f);
            foreach ((int token, int times) in seen[firstSeen..])
            {
                ref float logit = ref expected[(r * Vocabulary) + token];
                logit = logit > 0 ? logit / 1.3f : logit * 1.3f;
                if (times > 0)
                    logit -= 0.4f + (0.25f * times);
            }

            foreach ((int token, float bias) in biases[firstBias..])
                expected[(r * Vocabulary) + token] = bias <= -100 ? float.NegativeInfinity : expected[(r * Vocabulary) + token] + bias;
        }

        DeviceBuffer device = machine.Buffer<float>(logits);
        new PenaltyKernel(machine.Cache, Vocabulary).Launch(
            machine.Stream, device.Pointer, machine.Buffer<PenaltyRow>(rows).Pointer, machine.Buffer<(int, int)>([.. seen]).Pointer, machine.Buffer<(int, float)>([.. biases]).Pointer, Rows);

        machine.AssertEqual<float>(expected, machine.Read<float>(device), "logits");
    }

    [Theory]
    [InlineData(5, 3)]
    [InlineData(1003, 20)]
    [InlineData(4096, 20)]
    [InlineData(4096, 0)]
    public void Logprobs_AreTheNetworksOwn(int vocabulary, int most)
    {
        using var machine = new KernelMachine();
        const int Rows = 2;
        float[] logits = [.. machine.Values(ElementType.F32, Rows * vocabulary, 20).Select(logit => MathF.Round(logit) + 0f)]; // many equals
        int[] tokens = [vocabulary - 1, -3];
        DeviceBuffer chosen = machine.Buffer<float>(0f, 7f), topTokens = machine.Empty(ElementType.S32, Math.Max(Rows * most, 1)), top = machine.Empty(ElementType.F32, Math.Max(Rows * most, 1));

        new LogprobsKernel(machine.Cache, vocabulary, most).Launch(
            machine.Stream, machine.Buffer<float>(logits).Pointer, machine.Buffer<int>(tokens).Pointer, chosen.Pointer, topTokens.Pointer, top.Pointer, Rows);

        double[] totals = [.. logits.Chunk(vocabulary).Select(row => row.Max() + Math.Log(row.Sum(logit => Math.Exp(logit - row.Max()))))];
        machine.AssertClose([(float)(logits[vocabulary - 1] - totals[0]), 7], machine.Read<float>(chosen), 2e-6f, 1, "chosen");
        if (most == 0)
            return;
        int[][] order = [.. logits.Chunk(vocabulary).Select(row => Enumerable.Range(0, vocabulary).OrderByDescending(i => row[i]).Take(most).ToArray())];
        machine.AssertEqual<int>([.. order.SelectMany(row => row)], machine.Read<int>(topTokens), "top tokens");
        machine.AssertClose([.. order.SelectMany((row, r) => row.Select(i => (float)(logits[(r * vocabulary) + i] - totals[r])))], machine.Read<float>(top), 2e-6f, 1, "top");
    }

    [Theory]
    [InlineData(1)]
    [InlineData(13)]
    [InlineData(2048)]
    [InlineData(6001)] // more candidates than are looked at one by one, where all weigh about the same
    [InlineData(9001)] // several blocks share a row
    public void Sample_DrawsWhatTheHostDraws(int vocabulary)
    {
        using var machine = new KernelMachine();
        Filter[] filters =
        [
            new(), new(Temperature: 0), new(Temperature: 0.7f, TopK: 20, TopP: 0.8f), new(TopK: 1), new(TopK: 50), new(TopP: 0.95f), new(TopP: 1e-6f), new(TopP: 0.9999f), new(TopP: 0),
            new(MinP: 0.05f), new(MinP: 1), new(Temperature: 1.5f, TopK: 5, MinP: 0.1f, TopP: 0.5f), new(Temperature: 100), new(Temperature: 100, TopP: 0.99f), new(Temperature: 1e-30f),
            new(TopK: vocabulary), new(TopK: int.MaxValue, TopP: 0.7f), new(Temperature: 100, TopK: Math.Max(vocabulary - 1, 1)),
        ];
        int[] repeats = [.. Enumerable.Range(0, filters.Length * 2)];
        double[] uniforms = [.. repeats.Select(i => i < 4 ? i / 3 * (1 - Math.Pow(2, -53)) : machine.Random.NextDouble())];
        float[][] logits = [.. repeats.Select(i => machine.Values(ElementType.F32, vocabulary, i % 2 == 0 ? 3 : 1))];
        foreach (float[] row in logits.Where((_, i) => i % 3 == 0))
        {
            for (int i = 0; i < vocabulary; i++)
                row[i] = MathF.Round(row[i] * 2) / 2; // many equals
            row[vocabulary / 2] = float.NegativeInfinity;
            row[0] = 1;
        }

        SamplingRow[] rows = [.. repeats.Select(i => Row(filters[i / 2], uniforms[i]))];
        DeviceBuffer tokens = machine.Empty(ElementType.S32, rows.Length), scratch = machine.Buffer<byte>(new byte[rows.Length * SampleKernels.ScratchBytes]);
        DeviceBuffer input = machine.Buffer<float>([.. logits.SelectMany(row => row)]), parameters = machine.Buffer<SamplingRow>(rows);
        var kernels = new SampleKernels(machine.Cache, vocabulary);
        for (int repeat = 0; repeat < 2; repeat++) // it leaves the scratch memory as it needs it
            kernels.Launch(machine.Stream, input.Pointer, parameters.Pointer, tokens.Pointer, scratch.Pointer, rows.Length);

        int[] drawn = machine.Read<int>(tokens);
        foreach (int i in repeats)
        {
            Filter filter = filters[i / 2];
            // The device rounds e^x otherwise: it may decide otherwise only where a threshold lies as near as that.
            int[] allowed = [.. ((double[])[-1, 0, 1]).SelectMany(nudge => Draw(logits[i], filter, uniforms[i], nudge * 2e-5)).Distinct()];
            Assert.True(allowed.Contains(drawn[i]), $"seed {machine.Seed}, row {i}: {filter} with {uniforms[i]:g17} of {vocabulary} draws {drawn[i]}, not {string.Join(" or ", allowed)}.");
        }
    }

    /// <summary>0 and -0 weigh the same: the lower id comes first, as on the host.</summary>
    [Fact]
    public void Sample_OrdersZerosOfBothSignsById()
    {
        using var machine = new KernelMachine(seed: 3);
        float[] logits = [-0f, 0f, -0f, 0f];
        SamplingRow[] rows = [.. Enumerable.Range(0, 4).Select(i => new SamplingRow(1, 4, 0.9999f, 0, (i + 0.5) / 4))];
        DeviceBuffer tokens = machine.Empty(ElementType.S32, rows.Length);
        new SampleKernels(machine.Cache, logits.Length).Launch(
            machine.Stream, machine.Buffer<float>([.. rows.SelectMany(_ => logits)]).Pointer, machine.Buffer<SamplingRow>(rows).Pointer, tokens.Pointer, machine.Buffer<byte>(new byte[rows.Length * SampleKernels.ScratchBytes]).Pointer, rows.Length);
        machine.AssertEqual<int>([0, 1, 2, 3], machine.Read<int>(tokens), "tokens");
    }

    [Fact]
    public void Sample_FollowsTheDistribution()
    {
        using var machine = new KernelMachine(seed: 7);
        const int Draws = 400;
        float[] logits = [0, MathF.Log(2), MathF.Log(4), MathF.Log(1), float.NegativeInfinity];
        SamplingRow[] rows = [.. Enumerable.Range(0, Draws).Select(i => new SamplingRow(1, 0, i % 2 == 0 ? 1 : 0.99f, 0, (i / 2 + 0.5) / (Draws / 2)))];
        DeviceBuffer tokens = machine.Empty(ElementType.S32, Draws);

        new SampleKernels(machine.Cache, logits.Length).Launch(
            machine.Stream, machine.Buffer<float>([.. Enumerable.Repeat(logits, Draws).SelectMany(row => row)]).Pointer, machine.Buffer<SamplingRow>(rows).Pointer, tokens.Pointer, machine.Buffer<byte>(new byte[Draws * SampleKernels.ScratchBytes]).Pointer, Draws);

        // Evenly spaced random numbers: each token is drawn in its share, 1 2 4 1 of 8, whether by id or by weight.
        int[] drawn = machine.Read<int>(tokens);
        for (int kind = 0; kind < 2; kind++)
            Assert.Equal([25, 50, 100, 25, 0], Enumerable.Range(0, 5).Select(token => drawn.Where((t, i) => i % 2 == kind && t == token).Count()));
    }

    /// <summary>More tokens than are looked at one by one weigh the same, or lie below all bins: the first in order by id.</summary>
    [Fact]
    public void Sample_SearchesAllOfARow_WhereTooManyTokensAreAsLikely()
    {
        using var machine = new KernelMachine(seed: 5);
        const int Vocabulary = 9001, Top = 100;
        // uniform numbers in the middle of a token's share
        (float Other, SamplingRow Row, int Token)[] cases =
        [
            (0, new(1, 5000, 1, 0, 3000.5 / 5000), 3000), (0, new(1, 0, 0.5f, 0, 4000.5 / 4501), 4000), (0, new(1, 6000, 0.5f, 0, 2999.5 / 3000), 2999), (0, new(1, 0, 1, 0.5f, 8000.5 / 9001), 8000),
            (-20, new(1, 8000, 1, 0, 1 - 1e-9), Tail(8000, 1 - 1e-9)), (-20, new(1, 9000, 1, 0, 0.5), Top), (-200, new(1, 9000, 1, 0, 1 - 1e-9), Top),
        ];
        float[] logits = [.. cases.SelectMany(c => Enumerable.Range(0, Vocabulary).Select(i => c.Other < 0 && i == Top ? 0 : c.Other))];
        DeviceBuffer tokens = machine.Empty(ElementType.S32, cases.Length);

        new SampleKernels(machine.Cache, Vocabulary).Launch(
            machine.Stream, machine.Buffer<float>(logits).Pointer, machine.Buffer<SamplingRow>([.. cases.Select(c => c.Row)]).Pointer, tokens.Pointer,
            machine.Buffer<byte>(new byte[cases.Length * SampleKernels.ScratchBytes]).Pointer, cases.Length);

        machine.AssertEqual<int>([.. cases.Select(c => c.Token)], machine.Read<int>(tokens), "tokens");

        // Where a likely token comes first, then the others by id.
        static int Tail(int kept, double uniform)
        {
            double weight = Math.Floor(Math.Exp(-20) * Math.ScaleB(1, 40)), first = Math.ScaleB(1, 40);
            int place = (int)((((first + (weight * (kept - 1))) * uniform) - first) / weight);
            return place < Top ? place : place + 1;
        }
    }

    [Fact]
    public void SizesItCannotHave_AreRefused()
    {
        var target = new PtxTarget(90, 84);
        Assert.Throws<ArgumentOutOfRangeException>(() => WeighKernel.Build(target, 0, null));
        Assert.Throws<ArgumentOutOfRangeException>(() => WeighKernel.Build(target, (1 << 22) + 1, null));
        Assert.Throws<ArgumentOutOfRangeException>(() => LogprobsKernel.Build(target, 4, 5));
        Assert.Throws<ArgumentOutOfRangeException>(() => ArgmaxKernel.Build(target, 0));
    }

    private static SamplingRow Row(Filter filter, double uniform) => new(filter.Temperature, filter.TopK, filter.TopP, filter.MinP, uniform);

    /// <summary>The token, with thresholds moved by a fraction of the whole; more than one, where the order of weights hangs on their last bits.</summary>
    private static IEnumerable<int> Draw(float[] logits, Filter filter, double uniform, double nudge)
    {
        int[] byLogit = [.. Enumerable.Range(0, logits.Length).OrderByDescending(i => logits[i])];
        if (filter.Temperature == 0)
            return [byLogit[0]];
        double max = logits[byLogit[0]];
        double[] weights = [.. logits.Select(logit => Math.Exp((logit - max) / filter.Temperature))];
        double Weight(int token) => weights[token] < MathF.ScaleB(1, -126) ? 0 : weights[token];
        bool isPlain = (filter.TopK == 0 || filter.TopK >= logits.Length) && filter.TopP >= 1 && filter.MinP == 0;
        int[] kept = isPlain ? [.. Enumerable.Range(0, logits.Length)] : byLogit;
        kept = [.. kept.Where(token => Weight(token) > 0 && Weight(token) >= Math.Min(filter.MinP * (1 + nudge), 1))];
        if (filter.TopK > 0)
            kept = [.. kept.Take(filter.TopK)];
        double total = kept.Sum(Weight), reached = 0;
        if (filter.TopP < 1)
            kept = [.. kept.TakeWhile((token, i) => (reached += i == 0 ? 0 : Weight(kept[i - 1])) < (filter.TopP + nudge) * total || i == 0)];
        double threshold = (uniform + nudge) * kept.Sum(Weight);
        reached = 0;
        return [kept.FirstOrDefault(token => (reached += Weight(token)) > threshold, kept[^1])];
    }

    private sealed record Filter(float Temperature = 1, int TopK = 0, float TopP = 1, float MinP = 0);
}
