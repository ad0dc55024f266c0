using Qwen.Emulation;
using Qwen.Native.Device;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Backends.Cuda;
using Qwen.Runtime.Cache;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Speculation;

namespace Qwen.Runtime.Tests.Cuda;

/// <summary>Tokens chosen on the emulated device are those that the host chooses from the same logits: row by row, and through the whole engine.</summary>
public sealed class CudaSamplingTests
{
    private static readonly SamplingOptions Plain = new() { MaxTokens = 5, IgnoreEos = true, Temperature = 1 };

    private static readonly SamplingOptions[] Ways =
    [
        Plain with { Temperature = 0 },
        Plain with { Temperature = 0, RepetitionPenalty = 1.3, PresencePenalty = 0.5, FrequencyPenalty = 0.7 },
        Plain with { Temperature = 0, Logprobs = 0 },
        Plain with { Seed = 1 },
        Plain with { Seed = 2, Temperature = 0.8, TopK = 20, TopP = 0.9, Logprobs = 3 },
        Plain with { Seed = 3, Temperature = 1.5, MinP = 0.05, Logprobs = 20 },
        Plain with { Seed = 4, TopP = 0.7, RepetitionPenalty = 1.1 },
        Plain with { Seed = 5, LogitBias = new Dictionary<int, float> { [7] = 4, [11] = -100, [12] = 4.5f }, FrequencyPenalty = 2 },
        Plain with { Seed = 6, IgnoreEos = false, StopTokenIds = [7], LogitBias = new Dictionary<int, float> { [7] = 8 }, MinTokens = 3 },
        Plain with { Seed = 7, Logprobs = 2, PresencePenalty = 1 }, // the host's
        Plain with { Seed = 8, N = 2, MaxTokens = 3 },
        Plain with { Seed = 9, PromptLogprobs = 1, MaxTokens = 3 },
    ];

    [Fact]
    public void ARowsToken_IsTheHosts_WhetherAfterTokensOrGuesses()
    {
        const int Vocabulary = 1001, Stride = 1008; // what pads the rows is no token, whatever it holds
        using var gpu = new Sampling(rows: 2 * Ways.Length, Stride);
        var random = new Random(11);
        var workspace = new SamplerWorkspace(Vocabulary);
        Sampler[] device = [.. Ways.Select(Make)], host = [.. Ways.Select(Make)];
        for (int step = 0; step < 4; step++)
        {
            // minus infinity now and then: a token that can't be, on either side
            float[] logits = [.. Enumerable.Range(0, 2 * Ways.Length * Stride).Select(i => i % Stride >= Vocabulary ? 1000 : random.Next(20) == 0 ? float.NegativeInfinity : (random.NextSingle() - 0.5f) * 12)];
            gpu.Begin(logits);
            var expected = new List<(int Row, int Token, TokenLogprobs? Logprobs)>();
            for (int i = 0; i < Ways.Length; i++)
            {
                // Two rows of each: the second is right if the first gives what was guessed.
                int[] tokens = new int[2];
                for (int ahead = 0; ahead < 2; ahead++)
                {
                    int row = (2 * i) + ahead;
                    tokens[ahead] = host[i].Sample(logits.AsSpan(row * Stride, Vocabulary).ToArray(), workspace, out TokenLogprobs? logprobs);
                    if (gpu.Sampler.TryAdd(row, device[i], tokens.AsSpan(0, ahead)))
                        expected.Add((row, tokens[ahead], logprobs));
                    else
                        Assert.Equal(9, i);
                }

                device[i].Accept(tokens[0]);
                device[i].Accept(tokens[1]);
            }

            gpu.Sampler.Run(Vocabulary);
            gpu.Sampler.Wait();
            Assert.Equal(2 * (Ways.Length - 1), expected.Count);
            foreach ((int row, int token, TokenLogprobs? logprobs) in expected)
            {
                Assert.Equal((row, token), (row, gpu.Sampler.Token(row)));
                AssertClose(logprobs, gpu.Sampler.Logprobs(row));
            }

            Assert.Null(gpu.Sampler.Token(2 * 9));
        }

        static Sampler Make(SamplingOptions options) => new(options.Resolve(GenerationDefaults.None, Vocabulary), [3, 4, 4, 900], [7]);
    }

    [Theory]
    [InlineData(float.NaN, 5)]
    [InlineData(float.PositiveInfinity, 5)]
    [InlineData(float.NegativeInfinity, 0)] // all of them
    public void ALogitThatIsNotFinite_FailsItsRowAlone(float bad, int reported)
    {
        const int Vocabulary = 64;
        foreach (double temperature in (double[])[0, 1])
        {
            using var gpu = new Sampling(rows: 8, Vocabulary);
            float[] logits = new float[8 * Vocabulary];
            logits[Vocabulary + 5] = bad;
            if (float.IsNegativeInfinity(bad))
                logits.AsSpan(Vocabulary, Vocabulary).Fill(bad);
            logits[(2 * Vocabulary) + 9] = 1000;
            gpu.Begin(logits);
            for (int row = 0; row < 3; row++)
                Assert.True(gpu.Sampler.TryAdd(row, new Sampler(new SamplingOptions { Temperature = temperature, Logprobs = 1 }.Resolve(GenerationDefaults.None, Vocabulary), [], []), []));
            gpu.Sampler.Run(Vocabulary);
            gpu.Sampler.Wait();
            var host = new Sampler(new SamplingOptions { Temperature = temperature }.Resolve(GenerationDefaults.None, Vocabulary), [], []);

            Assert.Equal(reported, Assert.Throws<NonFiniteLogitException>(() => gpu.Sampler.Token(1)).Token);
            Assert.Equal(reported, Assert.Throws<NonFiniteLogitException>(() => host.Sample(logits.AsSpan(Vocabulary, Vocabulary).ToArray(), new SamplerWorkspace(Vocabulary), out _)).Token);
            Assert.InRange(gpu.Sampler.Token(0)!.Value, 0, Vocabulary - 1);
            Assert.Equal(9, gpu.Sampler.Token(2));
        }
    }

    [Fact]
    public void TheEngine_GivesTheSameAnswers()
    {
        var options = new EngineOptions { MaxSequences = 16, MaxBatchedTokens = 64, MaxModelLength = 64, Threads = 2, GpuLayers = 1, KvCacheType = KvCacheType.BF16 };
        Assert.Equal(Answers(options with { SamplesOnHost = true }, Ways), Answers(options, Ways));
    }

    [Fact]
    public void TheEngine_GivesTheSameAnswers_WithGuesses()
    {
        var likely = new Dictionary<int, float> { [10] = 30, [11] = 30 };
        SamplingOptions[] ways =
        [
            Plain with { MaxTokens = 12, Temperature = 0, LogitBias = likely },
            Plain with { MaxTokens = 12, Seed = 1, LogitBias = likely, Temperature = 3 },
            Plain with { MaxTokens = 12, Seed = 2, LogitBias = likely, FrequencyPenalty = 1, RepetitionPenalty = 1.2 },
        ];
        var options = new EngineOptions
        {
            MaxSequences = 4, MaxBatchedTokens = 32, MaxModelLength = 64, Threads = 2, GpuLayers = 1, KvCacheType = KvCacheType.BF16, Speculation = new SpeculationOptions { Tokens = 3, MinNGram = 1 },
        };
        Assert.Equal(Answers(options with { SamplesOnHost = true }, ways), Answers(options, ways));
    }

    [Fact]
    public void TheLikeliestTokens_AreFoundWithoutCopyingLogits()
    {
        var device = new EmulatedDevice();
        using (LoadedModel model = LoadedModel.Load(Repository.DemoModel, new EngineOptions { OpenDevice = _ => device, GpuLayers = 1, MaxSequences = 3, MaxModelLength = 32, MaxBatchedTokens = 8, Threads = 2 }))
        {
            using SequenceEvaluator greedy = new(model, 3);
            int[] tokens = [5, 6, 7], expected = [5, 6, 7];
            for (int step = 0; step < 3; step++)
                greedy.AdvanceGreedily(tokens);
            greedy.Reset();
            for (int step = 0; step < 3; step++)
            {
                greedy.Advance(expected);
                for (int i = 0; i < 3; i++)
                    expected[i] = System.Numerics.Tensors.TensorPrimitives.IndexOfMax(greedy.Logits(i)[..model.Tokenizer.VocabularySize]);
            }

            Assert.Equal(expected, tokens);
        }

        device.Dispose();
        Assert.Empty(device.Faults);
    }

    /// <summary>What each answer's tokens are, in steps that are the same whatever chooses them.</summary>
    private static List<string> Answers(EngineOptions options, SamplingOptions[] ways)
    {
        var device = new EmulatedDevice();
        var answers = new List<string>();
        using (LoadedModel model = LoadedModel.Load(Repository.DemoModel, (options with { OpenDevice = _ => device }).Validated()))
        {
            using var metrics = new EngineMetrics(() => default, () => true, model.MaxModelLength, options.Speculation?.Tokens ?? 0, options.Clock);
            var pool = new BlockPool(model.KvBlocks, model.BlockSize);
            var runner = new ModelRunner(model);
            using var core = new EngineCore(
                runner, model.Tokenizer.VocabularySize, pool, model.Options, new StepMeter(options.Clock, 1, 1), metrics, options.Speculation is { } speculation ? new NGramDrafter(speculation) : null);
            Request[] requests = [.. ways.Select((way, i) => new Request([10, 11, 10, 11, 20 + i], way.Resolve(model.Defaults, model.Tokenizer.VocabularySize), new RequestOptions(), model.MaxModelLength, model.EosTokenIds, pool))];
            foreach (Request request in requests)
                core.Add(request);
            bool hasRun = false;
            while (core.HasWork)
            {
                Assert.True(core.Step());
                hasRun |= model.Network.Sampler!.HasRun;
            }

            Assert.Equal(!options.SamplesOnHost, hasRun);
            if (options.Speculation is not null)
                Assert.InRange(core.Statistics.Speculation.AcceptedTokens, 3, core.Statistics.Speculation.DraftTokens - 1);
            foreach (Request request in requests)
            {
                var parts = new List<AnswerPart>();
                request.Stream.Read(parts);
                answers.AddRange(parts.GroupBy(p => p.Answer).Select(a => $"{a.Key}: {string.Join(' ', a.Select(p => Text(p.Token!.Value)))} {a.Last().Reason}"));
            }
        }

        device.Dispose(); // throws where something leaked
        Assert.Empty(device.Faults);
        return answers;

        static string Text(GeneratedToken token) => token.Logprobs is { } l ? $"{token.Id}({l.Logprob:0.000}: {string.Join(',', l.Top.Select(t => t.Id))})" : $"{token.Id}";
    }

    private static void AssertClose(TokenLogprobs? expected, TokenLogprobs? actual)
    {
        Assert.Equal(expected is null, actual is null);
        if (expected is null)
            return;
        Assert.Equal(expected.Logprob, actual!.Logprob, 5e-5);
        Assert.Equal(expected.Top.Select(t => t.Id), actual.Top.Select(t => t.Id));
        Assert.All(expected.Top.Zip(actual.Top), pair => Assert.Equal(pair.First.Logprob, pair.Second.Logprob, 5e-5));
    }

    /// <summary>A backend that only chooses tokens, of logits that are given.</summary>
    private sealed class Sampling : IDisposable
    {
        private readonly EmulatedDevice _device = new();
        private readonly CudaBackend _backend;
        private readonly Activations _logits;

        public Sampling(int rows, int columns)
        {
            using Checkpoint checkpoint = Checkpoint.Open(Repository.DemoModel);
            var settings = new CudaSettings(ModelConfig.Load(checkpoint), ElementType.BF16, 8, 1, 16, BlockSize: 16);
            CudaSums sums;
            using (CudaBackend measure = CudaBackend.Measure(_device, settings))
            {
                measure.AllocateSampler(measure.Allocate(rows, columns, ActivationPrecision.Full)).Dispose();
                sums = measure.Sums;
            }

            _backend = new CudaBackend(_device, settings, sums);
            _logits = _backend.Allocate(rows, columns, ActivationPrecision.Full);
            Sampler = _backend.AllocateSampler(_logits);
        }

        public LogitSampler Sampler { get; }

        public void Begin(float[] logits)
        {
            _backend.Write(logits, _logits);
            Sampler.Begin(_logits.Rows);
        }

        public void Dispose()
        {
            Sampler.Dispose();
            _logits.Dispose();
            _backend.Dispose();
            _device.Dispose();
            Assert.Empty(_device.Faults);
        }
    }
}
