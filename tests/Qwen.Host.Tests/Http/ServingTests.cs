using System.Buffers.Binary;
using System.Net;
using System.Text.Json;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Tests.Http;

/// <summary>What takes a real connection, or an engine that is in trouble.</summary>
public sealed class ServingTests
{
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Disconnect_FreesTheSequence(bool overSocket)
    {
        await using QwenEngine engine = await LoadAsync();
        await using TestHost host = overSocket ? await TestHost.ListenAsync(engine) : await TestHost.StartAsync(engine);
        using (HttpResponseMessage response = await host.StartLongStreamAsync())
            await DemoEngine.WaitUntilAsync(engine, s => s.Running == 1 && s.GeneratedTokens > 2);

        await DemoEngine.WaitUntilIdleAsync(engine);
        Assert.InRange(engine.Statistics.GeneratedTokens, 3, 49_999);
    }

    [Fact]
    public async Task Disconnect_BeforeAWholeAnswer_FreesTheSequence()
    {
        await using QwenEngine engine = await LoadAsync();
        await using TestHost host = await TestHost.ListenAsync(engine);
        using var gone = new CancellationTokenSource();
        using var content = new StringContent("""{"prompt": ["a", "b"], "max_tokens": 50000, "ignore_eos": true}""", System.Text.Encoding.UTF8, "application/json");
        Task<HttpResponseMessage> pending = host.Client.PostAsync("/v1/completions", content, gone.Token);
        await DemoEngine.WaitUntilAsync(engine, s => s.Running == 2);
        await gone.CancelAsync();

        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => pending);
        await DemoEngine.WaitUntilIdleAsync(engine);
        Assert.InRange(engine.Statistics.GeneratedTokens, 0, 99_999);
    }

    [Fact]
    public async Task FullQueue_Gets429_WithRetryAfter_AndLeavesNothingBehind()
    {
        await using QwenEngine engine = await LoadAsync(new EngineOptions { MaxSequences = 1, MaxQueue = 1 });
        await using TestHost host = await TestHost.StartAsync(engine);
        using HttpResponseMessage running = await host.StartLongStreamAsync();
        await DemoEngine.WaitUntilAsync(engine, s => s.Running == 1);
        using HttpResponseMessage waiting = await host.StartLongStreamAsync();
        await DemoEngine.WaitUntilAsync(engine, s => s.Waiting == 1);

        using HttpResponseMessage refused = await host.PostAsync("/v1/completions", """{"prompt": ["a", "b"], "stream": true}""");

        JsonElement error = await ErrorTests.ErrorAsync(refused, HttpStatusCode.TooManyRequests);
        Assert.Equal("rate_limit_error", error.GetProperty("type").GetString());
        Assert.Equal("engine_overloaded", error.GetProperty("code").GetString());
        Assert.Equal(TimeSpan.FromSeconds(1), refused.Headers.RetryAfter?.Delta);
        running.Dispose();
        waiting.Dispose();
        await DemoEngine.WaitUntilIdleAsync(engine);
    }

    [Fact]
    public async Task BodyOverTheLimit_Gets413()
    {
        await using QwenEngine engine = await QwenEngine.LoadAsync();
        await using TestHost host = await TestHost.ListenAsync(engine, maxRequestBytes: 1000);
        using HttpResponseMessage small = await host.PostAsync("/v1/completions", """{"prompt": "a", "max_tokens": 1}""");
        Assert.Equal(HttpStatusCode.OK, small.StatusCode);

        using HttpResponseMessage large = await host.PostAsync("/v1/completions", $$"""{"prompt": "{{new string('a', 1000)}}"}""");

        await ErrorTests.ErrorAsync(large, HttpStatusCode.RequestEntityTooLarge);
    }

    [Fact]
    public async Task NonFiniteLogits_AreAServerError_OrAnEventOfTheStream()
    {
        using var model = new DamagedModel();
        await using QwenEngine engine = await QwenEngine.LoadAsync(model.Path);
        await using TestHost host = await TestHost.StartAsync(engine);

        using HttpResponseMessage whole = await host.PostAsync("/v1/completions", """{"prompt": "a"}""");
        JsonElement error = await ErrorTests.ErrorAsync(whole, HttpStatusCode.InternalServerError);
        Assert.Equal("server_error", error.GetProperty("type").GetString());
        Assert.Equal("non_finite_logit", error.GetProperty("code").GetString());

        // An event of the stream if that has begun when the first token fails, else the response's status.
        using HttpResponseMessage streamed = await host.PostAsync("/v1/completions", """{"prompt": "a", "stream": true}""");
        string text = await streamed.Content.ReadAsStringAsync();
        Assert.Contains("\"non_finite_logit\"", text, StringComparison.Ordinal);
        Assert.Equal(streamed.StatusCode == HttpStatusCode.OK, text.StartsWith("data: ", StringComparison.Ordinal));
        Assert.True(streamed.StatusCode is HttpStatusCode.OK or HttpStatusCode.InternalServerError);
    }

    /// <summary>The demo model with room for answers that take minutes: longer than any test needs one to run.</summary>
    private static Task<QwenEngine> LoadAsync(EngineOptions? options = null) => QwenEngine.LoadAsync(options: (options ?? new EngineOptions { MaxSequences = 2 }) with { MaxModelLength = 60_000 });

    /// <summary>The demo model with NaN for the last weights of its file.</summary>
    private sealed class DamagedModel : IDisposable
    {
        public DamagedModel()
        {
            foreach (string file in Directory.GetFiles(ModelFiles.DemoModel))
                File.Copy(file, System.IO.Path.Combine(Path, System.IO.Path.GetFileName(file)));
            string weights = System.IO.Path.Combine(Path, "model.safetensors");
            byte[] bytes = File.ReadAllBytes(weights);
            for (int i = bytes.Length - 512; i < bytes.Length; i += 2)
                BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(i), 0x7FC0);
            File.WriteAllBytes(weights, bytes);
        }

        public string Path { get; } = Directory.CreateTempSubdirectory("qwen-nan").FullName;

        public void Dispose() => Directory.Delete(Path, recursive: true);
    }
}
