using Qwen.Emulation;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Cache;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Tests.Cuda;

/// <summary>Steps that are on their way before the tokens of the step before are known: the answers are those of an engine that waits for each token.</summary>
public sealed class RunAheadTests
{
    private static readonly SamplingOptions Plain = new() { MaxTokens = 9, IgnoreEos = true, Temperature = 0 };

    // Answers of different lengths, that end by a token whenever it comes, and not before so many, or never begin: a single token.
    private static readonly SamplingOptions[] Ways =
    [
        Plain, Plain with { Temperature = 1, Seed = 1 }, Plain with { Temperature = 0.8, TopK = 20, TopP = 0.9, Seed = 2, Logprobs = 2, MaxTokens = 6 }, Plain with { MaxTokens = 1 }, Plain with { MaxTokens = 2 },
        Plain with { Temperature = 1, Seed = 3, IgnoreEos = false, StopTokenIds = [7], LogitBias = new Dictionary<int, float> { [7] = 8 }, MinTokens = 3 },
    ];

    [Fact]
    public void Answers_AreThoseOfWaiting()
    {
        var options = new EngineOptions { MaxSequences = 8, MaxBatchedTokens = 64, MaxModelLength = 64, Threads = 2, GpuLayers = 4, KvCacheType = KvCacheType.BF16 };
        (List<string> expected, int none) = Answers(options with { SamplesOnHost = true });
        (List<string> actual, int ahead) = Answers(options);
        Assert.Equal(0, none);
        Assert.InRange(ahead, 8, int.MaxValue);
        Assert.Equal(expected, actual);
    }

    [Fact]
    public void WhereBlocksRunOut_AStepWaits()
    {
        // Room for all prompts, but not for all answers: some are evicted and read again.
        var options = new EngineOptions { MaxSequences = 8, MaxBatchedTokens = 64, MaxModelLength = 32, Threads = 2, GpuLayers = 4, KvCacheType = KvCacheType.BF16, KvCacheBytes = 5 * 16 * 2048, EnablePrefixCaching = false };
        SamplingOptions[] ways = [.. Enumerable.Range(0, 3).Select(_ => Plain with { MaxTokens = 18 })];
        (List<string> expected, _) = Answers(options with { SamplesOnHost = true }, ways);
        (List<string> actual, int ahead) = Answers(options, ways);
        Assert.InRange(ahead, 3, int.MaxValue);
        Assert.Equal(expected.Select(a => a.Split(' ').Length), actual.Select(a => a.Split(' ').Length));
    }

    /// <summary>The answers to some requests, of which the last comes late and the one before it is cancelled; and how many steps read tokens that nobody knew.</summary>
    private static (List<string> Answers, int Ahead) Answers(EngineOptions options, SamplingOptions[]? ways = null)
    {
        ways ??= Ways;
        var device = new EmulatedDevice();
        var answers = new List<string>();
        int ahead;
        using (LoadedModel model = LoadedModel.Load(Repository.DemoModel, (options with { OpenDevice = _ => device }).Validated()))
        {
            using var metrics = new EngineMetrics(() => default, () => true, model.MaxModelLength, 0, options.Clock);
            var pool = new BlockPool(model.KvBlocks, model.BlockSize, model.Options.EnablePrefixCaching);
            var runner = new Watched(new ModelRunner(model));
            using var core = new EngineCore(runner, model.Tokenizer.VocabularySize, pool, model.Options, new StepMeter(options.Clock, 1, 1), metrics);
            Request[] requests = [.. ways.Append(Plain with { MaxTokens = 20 }).Append(Plain).Select((way, i) =>
                new Request([10, 11, 10, 11, 20 + i], way.Resolve(model.Defaults, model.Tokenizer.VocabularySize), new RequestOptions(), model.MaxModelLength, model.EosTokenIds, pool))];
            foreach (Request request in requests[..^1])
                core.Add(request);
            for (int step = 0; core.HasWork; step++)
            {
                if (step == 3)
                    core.Add(requests[^1]);
                if (step == 5)
                    requests[^2].Cancel(default);
                core.Step();
            }

            ahead = runner.Ahead;
            Assert.Equal(model.KvBlocks, pool.Free);
            foreach (Request request in requests.Where(r => r != requests[^2]))
            {
                var parts = new List<AnswerPart>();
                request.Stream.Read(parts);
                answers.Add($"{string.Join(' ', parts.Select(p => p.Token!.Value.Id))} {parts[^1].Reason}");
            }
        }

        device.Dispose(); // throws where something leaked
        Assert.Empty(device.Faults);
        return (answers, ahead);
    }

    private sealed class Watched(ModelRunner runner) : IModelRunner
    {
        public int Ahead { get; private set; }

        public LogitSampler? Sampler => runner.Sampler;

        public bool ReadsItsChoices => runner.ReadsItsChoices;

        public void CopyBlocks(ReadOnlySpan<BlockCopy> copies) => runner.CopyBlocks(copies);

        public unsafe void Forward(Batch batch)
        {
            Ahead += new ReadOnlySpan<int>(batch.Tokens, batch.TokenCount).ContainsAnyInRange(int.MinValue, -1) ? 1 : 0;
            runner.Forward(batch);
        }

        public Span<float> Logits(int row) => runner.Logits(row);
    }
}
