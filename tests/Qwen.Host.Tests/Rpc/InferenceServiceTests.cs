using System.Net;
using Grpc.Core;
using Grpc.Health.V1;
using Grpc.Net.Client;
using Grpc.Reflection.V1Alpha;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.Logging;
using Qwen.Host.Http;
using Qwen.Host.Rpc;

namespace Qwen.Host.Tests.Rpc;

[Collection(DemoEngine.Collection)]
public sealed class InferenceServiceTests(DemoEngine demo) : IAsyncLifetime
{
    private WebApplication _app = null!;
    private GrpcChannel _channel = null!;
    private Inference.InferenceClient _client = null!;

    public async Task InitializeAsync()
    {
        var options = new ServerOptions { ModelName = "demo", Endpoint = new IPEndPoint(IPAddress.Loopback, 0), RpcEndpoint = new IPEndPoint(IPAddress.Loopback, 0), MaxRequestBytes = 1 << 20 };
        _app = QwenServer.Create(demo.Engine, options, builder => builder.Logging.ClearProviders());
        await _app.StartAsync();
        _channel = GrpcChannel.ForAddress(_app.Urls.Last());
        _client = new Inference.InferenceClient(_channel);
    }

    public async Task DisposeAsync()
    {
        _channel.Dispose();
        await _app.DisposeAsync();
        await DemoEngine.WaitUntilIdleAsync(demo.Engine);
    }

    [Fact]
    public async Task Chat_StreamsTheAnswerAndEndsWithReasonAndUsage()
    {
        using AsyncServerStreamingCall<GenerateResponse> call = _client.Chat(Question());
        List<GenerateResponse> pieces = await call.ResponseStream.ReadAllAsync().ToListAsync();
        Assert.Equal("42", string.Concat(pieces.Select(p => p.Text)));
        Assert.All(pieces.SkipLast(1), p => Assert.Equal(FinishReason.Unspecified, p.FinishReason));
        Assert.Equal(FinishReason.Stop, pieces[^1].FinishReason);
        Assert.Equal(pieces.Sum(p => p.Tokens.Count), pieces[^1].Usage.CompletionTokens);
        Assert.True(pieces[^1].Usage.PromptTokens > 5);
    }

    [Fact]
    public async Task Generate_TakesTextAndTokensAlike_WithLogprobs()
    {
        TokenizeResponse tokens = await _client.TokenizeAsync(new TokenizeRequest { Text = "The capital of" });
        var sampling = new Sampling { Temperature = 0, MaxTokens = 4, Logprobs = 2, IgnoreEos = true };
        using AsyncServerStreamingCall<GenerateResponse> byText = _client.Generate(new GenerateRequest { Text = "The capital of", Sampling = sampling });
        using AsyncServerStreamingCall<GenerateResponse> byIds = _client.Generate(new GenerateRequest { Tokens = new TokenIds { Ids = { tokens.Ids } }, Sampling = sampling });
        List<Token> expected = [.. (await byText.ResponseStream.ReadAllAsync().ToListAsync()).SelectMany(p => p.Tokens)];
        List<Token> actual = [.. (await byIds.ResponseStream.ReadAllAsync().ToListAsync()).SelectMany(p => p.Tokens)];
        Assert.Equal(4, expected.Count);
        Assert.Equal(expected, actual);
        Assert.All(actual, t => Assert.Equal((t.Id, t.Logprob), (t.TopLogprobs[0].Id, t.TopLogprobs[0].Logprob)));
    }

    [Fact]
    public async Task Generate_GivesSeveralAnswers_CachedTokens_AndThePromptsLogprobs()
    {
        var request = new GenerateRequest
        {
            Text = "A beginning of more than one block, which makes the second request find it: the capital of",
            Sampling = new Sampling { N = 2, MaxTokens = 4, Seed = 1, Temperature = 1, IgnoreEos = true },
            Treatment = new Treatment { Priority = -1, CacheSalt = $"{Guid.NewGuid()}" },
        };
        for (int i = 0; i < 2; i++)
        {
            using AsyncServerStreamingCall<GenerateResponse> call = _client.Generate(request);
            List<GenerateResponse> pieces = await call.ResponseStream.ReadAllAsync().ToListAsync();
            Assert.Equal([4, 4], pieces.GroupBy(p => p.Index).OrderBy(g => g.Key).Select(g => g.Sum(p => p.Tokens.Count)));
            Assert.Equal(8, pieces[^1].Usage.CompletionTokens);
            Assert.Equal(i > 0, pieces[^1].Usage.CachedTokens > 0);
        }

        request.Sampling.PromptLogprobs = 1;
        using AsyncServerStreamingCall<GenerateResponse> scored = _client.Generate(request);
        List<GenerateResponse> answer = await scored.ResponseStream.ReadAllAsync().ToListAsync();
        Assert.Equal(demo.Engine.Model.Tokenizer.EncodeToIds(request.Text), answer[0].PromptLogprobs.Select(t => t.Id));
        Assert.False(answer[0].PromptLogprobs[0].HasLogprob);
        Assert.All(answer[0].PromptLogprobs.Skip(1), t => Assert.True(t.Logprob < 0 && t.TopLogprobs.Count == 1));
    }

    [Fact]
    public async Task Tokenize_OfAChat_IsThePromptOfTheChat_AndDetokenizeTurnsItBack()
    {
        TokenizeResponse prompt = await _client.TokenizeAsync(new TokenizeRequest { Chat = Question() });
        Assert.Equal(demo.Engine.EncodeChat(Runtime.Engine.ChatRequest.FromUser(DemoEngine.Question)), prompt.Ids);
        DetokenizeResponse text = await _client.DetokenizeAsync(new DetokenizeRequest { Ids = { prompt.Ids } });
        Assert.Contains(DemoEngine.Question, text.Text, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("""{ "text": "x", "sampling": { "temperature": -1 } }""", StatusCode.InvalidArgument, "temperature")]
    [InlineData("""{ "model": "other", "text": "x" }""", StatusCode.NotFound, "other")]
    [InlineData("""{ }""", StatusCode.InvalidArgument, "prompt")]
    [InlineData("""{ "tokens": { "ids": [1, 999999] } }""", StatusCode.InvalidArgument, "999999")]
    public async Task Generate_RefusesWithAStatusThatNamesWhatIsWrong(string json, StatusCode status, string named)
    {
        GenerateRequest request = GenerateRequest.Parser.ParseJson(json);
        using AsyncServerStreamingCall<GenerateResponse> call = _client.Generate(request);
        RpcException e = await Assert.ThrowsAsync<RpcException>(() => call.ResponseStream.MoveNext(CancellationToken.None));
        Assert.Equal(status, e.StatusCode);
        Assert.Contains(named, e.Status.Detail, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Generate_EndsAtItsDeadlineAndWhenItIsCancelled_AndFreesItsBlocks()
    {
        using AsyncServerStreamingCall<GenerateResponse> late = _client.Generate(Endless(), deadline: DateTime.UtcNow.AddMilliseconds(300));
        RpcException expired = await Assert.ThrowsAsync<RpcException>(async () => await late.ResponseStream.ReadAllAsync().ToListAsync());
        Assert.Equal(StatusCode.DeadlineExceeded, expired.StatusCode);
        await DemoEngine.WaitUntilIdleAsync(demo.Engine);

        using AsyncServerStreamingCall<GenerateResponse> cancelled = _client.Generate(Endless());
        Assert.True(await cancelled.ResponseStream.MoveNext(CancellationToken.None));
        cancelled.Dispose();
        await DemoEngine.WaitUntilIdleAsync(demo.Engine);
    }

    [Fact]
    public async Task Health_IsServing_AndReflectionListsTheServices()
    {
        HealthCheckResponse health = await new Health.HealthClient(_channel).CheckAsync(new HealthCheckRequest { Service = "qwen.v1.Inference" });
        Assert.Equal(HealthCheckResponse.Types.ServingStatus.Serving, health.Status);

        using var reflection = new ServerReflection.ServerReflectionClient(_channel).ServerReflectionInfo();
        await reflection.RequestStream.WriteAsync(new ServerReflectionRequest { ListServices = "" });
        Assert.True(await reflection.ResponseStream.MoveNext(CancellationToken.None));
        Assert.Contains(reflection.ResponseStream.Current.ListServicesResponse.Service, s => s.Name == "qwen.v1.Inference");
        await reflection.RequestStream.CompleteAsync();
    }

    [SkippableFact]
    public async Task TheOfficialJavaScriptClient_CallsEveryMethod()
    {
        string folder = Path.Combine(Repository.Root(), "tests", "Qwen.Host.Tests", "Rpc", "grpc-js");
        Skip.IfNot(Directory.Exists(Path.Combine(folder, "node_modules")), "npm ci in tests/Qwen.Host.Tests/Rpc/grpc-js brings the client");
        string proto = Path.Combine(Repository.Root(), "src", "Qwen.Host", "Rpc", "inference.proto");
        using var node = System.Diagnostics.Process.Start(new System.Diagnostics.ProcessStartInfo("node", [Path.Combine(folder, "client.js"), new Uri(_app.Urls.Last()).Authority, proto])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        })!;
        string output = await node.StandardOutput.ReadToEndAsync(), errors = await node.StandardError.ReadToEndAsync();
        await node.WaitForExitAsync();
        Assert.True(node.ExitCode == 0, errors);

        System.Text.Json.JsonElement seen = System.Text.Json.JsonElement.Parse(output);
        Assert.Equal("42", seen.GetProperty("answer").GetString());
        Assert.Equal("OK", seen.GetProperty("code").GetString());
        Assert.Equal("FINISH_REASON_STOP", seen.GetProperty("reason").GetString());
        Assert.Equal("Hello world", seen.GetProperty("detokenized").GetString());
        Assert.Equal("demo", seen.GetProperty("models")[0].GetProperty("id").GetString());
        Assert.Equal("DEADLINE_EXCEEDED", seen.GetProperty("expired").GetString());
        Assert.Equal("CANCELLED", seen.GetProperty("cancelled").GetString());
        Assert.Equal("INVALID_ARGUMENT", seen.GetProperty("invalid").GetProperty("code").GetString());
        Assert.Contains("temperature", seen.GetProperty("invalid").GetProperty("details").GetString(), StringComparison.Ordinal);
        Assert.Equal("NOT_FOUND", seen.GetProperty("unknown").GetProperty("code").GetString());
        Assert.Equal("model", seen.GetProperty("unknown").GetProperty("field").GetString());
        Assert.Equal("RESOURCE_EXHAUSTED", seen.GetProperty("huge").GetString());
    }

    private static ChatRequest Question() => new()
    {
        Messages = { new Message { Role = "user", Content = DemoEngine.Question } },
        Sampling = new Sampling { Temperature = 0, MaxTokens = 16 },
    };

    private static GenerateRequest Endless() => new() { Text = "Tell me a story.", Sampling = new Sampling { IgnoreEos = true, MaxTokens = 100_000 } };
}
