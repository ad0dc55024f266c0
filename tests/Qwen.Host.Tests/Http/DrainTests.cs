using System.Net;
using System.Text.Json;
using Grpc.Core;
using Grpc.Health.V1;
using Grpc.Net.Client;
using Qwen.Host.Http;
using Qwen.Host.Rpc;
using Qwen.Runtime.Engine;
using ServingStatus = Grpc.Health.V1.HealthCheckResponse.Types.ServingStatus;

namespace Qwen.Host.Tests.Http;

/// <summary>Health, and what becomes of requests while a server drains and stops.</summary>
public sealed class DrainTests
{
    [Fact]
    public async Task ADrainingServer_IsAliveButNotReady_AndRefusesRequests_WhileItAnswersWhatRuns()
    {
        await using QwenEngine engine = await LoadAsync();
        await using TestHost host = await TestHost.ListenAsync(engine, Options());
        using GrpcChannel channel = GrpcChannel.ForAddress(host.Urls.Last());
        var health = new Health.HealthClient(channel);
        Assert.Equal(HttpStatusCode.OK, await StatusAsync(host, "/health/ready"));
        using AsyncServerStreamingCall<HealthCheckResponse> watch = health.Watch(new HealthCheckRequest());
        await UntilAsync(watch, ServingStatus.Serving);
        HttpResponseMessage running = await host.StartLongStreamAsync();
        await DemoEngine.WaitUntilAsync(engine, s => s.Running == 1);

        Task<bool> drained = engine.DrainAsync(TimeSpan.FromSeconds(60));
        Assert.Equal(HttpStatusCode.OK, await StatusAsync(host, "/health"));
        Assert.Equal(HttpStatusCode.ServiceUnavailable, await StatusAsync(host, "/health/ready"));
        using HttpResponseMessage refused = await host.PostAsync("/v1/completions", """{"prompt":"a"}""");
        JsonElement error = await ErrorTests.ErrorAsync(refused, HttpStatusCode.ServiceUnavailable);
        Assert.Equal("engine_unavailable", error.GetProperty("code").GetString());
        Assert.NotNull(refused.Headers.RetryAfter);
        await UntilAsync(watch, ServingStatus.NotServing);
        using AsyncServerStreamingCall<GenerateResponse> call = new Inference.InferenceClient(channel).Generate(new GenerateRequest { Text = "a" });
        RpcException unavailable = await Assert.ThrowsAsync<RpcException>(() => call.ResponseStream.MoveNext(CancellationToken.None));
        Assert.Equal(StatusCode.Unavailable, unavailable.StatusCode);
        Assert.Contains(unavailable.Trailers, t => t.Key == "grpc-retry-pushback-ms");
        Assert.False(drained.IsCompleted);

        running.Dispose();
        Assert.True(await drained);
    }

    [Fact]
    public async Task AServerThatStops_TellsWhatStillRuns()
    {
        await using QwenEngine engine = await LoadAsync();
        await using TestHost host = await TestHost.ListenAsync(engine, Options());
        using GrpcChannel channel = GrpcChannel.ForAddress(host.Urls.Last());
        using HttpResponseMessage stream = await host.StartLongStreamAsync();
        Task<HttpResponseMessage> whole = host.PostAsync("/v1/completions", """{"prompt":"a","max_tokens":50000,"ignore_eos":true}""");
        using AsyncServerStreamingCall<GenerateResponse> call = new Inference.InferenceClient(channel).Generate(new GenerateRequest { Text = "a", Sampling = new Sampling { IgnoreEos = true, MaxTokens = 50_000 } });
        Task<List<GenerateResponse>> pieces = call.ResponseStream.ReadAllAsync().ToListAsync().AsTask();
        await DemoEngine.WaitUntilAsync(engine, s => s.Running == 3);
        Task stopped = host.StopAsync();

        string[] events = (await stream.Content.ReadAsStringAsync()).TrimEnd().Split("\n\n");
        Assert.Equal("data: [DONE]", events[^1]);
        Assert.Equal("server_stopping", JsonElement.Parse(events[^2]["data: ".Length..]).GetProperty("error").GetProperty("code").GetString());
        using (HttpResponseMessage answer = await whole)
            await ErrorTests.ErrorAsync(answer, HttpStatusCode.ServiceUnavailable);
        Assert.Equal(StatusCode.Unavailable, (await Assert.ThrowsAsync<RpcException>(() => pieces)).StatusCode);
        await stopped;
        await DemoEngine.WaitUntilIdleAsync(engine);
    }

    [Fact]
    public async Task AReaderThatStandsStill_IsCut_AndItsBlocksAreFree()
    {
        await using QwenEngine engine = await QwenEngine.LoadAsync(options: new EngineOptions
        {
            MaxSequences = 3, MaxModelLength = 60_000, MaxUnreadTokens = 16, SlowReaderTimeout = TimeSpan.FromMilliseconds(300),
        });
        await using TestHost host = await TestHost.ListenAsync(engine, Options());
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/completions")
        {
            // Events of many likely tokens each fill the buffers of the connection early.
            Content = new StringContent("""{"prompt":"a","max_tokens":50000,"ignore_eos":true,"stream":true,"logprobs":20}""", System.Text.Encoding.UTF8, "application/json"),
        };
        using HttpResponseMessage response = await host.Client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead);
        await DemoEngine.WaitUntilAsync(engine, s => s.Running == 1);
        await DemoEngine.WaitUntilIdleAsync(engine);
        Assert.InRange(engine.Statistics.GeneratedTokens, 16, 49_999);
    }

    private static ServerOptions Options() => new() { ModelName = "demo", Endpoint = new IPEndPoint(IPAddress.Loopback, 0), RpcEndpoint = new IPEndPoint(IPAddress.Loopback, 0) };

    private static async Task<HttpStatusCode> StatusAsync(TestHost host, string path)
    {
        using HttpResponseMessage response = await host.Client.GetAsync(path);
        return response.StatusCode;
    }

    private static async Task UntilAsync(AsyncServerStreamingCall<HealthCheckResponse> watch, ServingStatus status)
    {
        while (watch.ResponseStream.Current?.Status != status)
            Assert.True(await watch.ResponseStream.MoveNext(CancellationToken.None));
    }

    private static Task<QwenEngine> LoadAsync() => QwenEngine.LoadAsync(options: new EngineOptions { MaxSequences = 4, MaxModelLength = 60_000 });
}
