using System.Net;
using System.Text.Json;
using System.Text.Json.Nodes;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Tests.Http;

/// <summary>The fields that ask for more than one plain answer, or for it to be treated otherwise.</summary>
[Collection(DemoEngine.Collection)]
public sealed class AnswerFieldsTests(DemoEngine demo) : IAsyncLifetime
{
    private const string Chat = "/v1/chat/completions", Completions = "/v1/completions";

    private TestHost _host = null!;

    public async Task InitializeAsync() => _host = await TestHost.StartAsync(demo.Engine);

    public async Task DisposeAsync() => await _host.DisposeAsync();

    [Fact]
    public async Task N_GivesTheAnswersThatTheSeedsGiveAlone_WholeAndStreamed()
    {
        string[] alone = new string[3];
        for (int i = 0; i < 3; i++)
            alone[i] = Texts(await _host.AskAsync(Completions, Sampled(("seed", 7 + i)))).Single();
        Assert.Equal(3, alone.Distinct().Count());

        JsonElement whole = await _host.AskAsync(Completions, Sampled(("seed", 7), ("n", 3)));
        Assert.Equal(alone, Texts(whole));
        Assert.Equal([0, 1, 2], whole.GetProperty("choices").EnumerateArray().Select(c => c.GetProperty("index").GetInt32()));
        Assert.Equal(3 * 12, whole.GetProperty("usage").GetProperty("completion_tokens").GetInt32());

        string[] streamed = ["", "", ""];
        foreach (JsonElement choice in (await _host.StreamAsync(Completions, Sampled(("seed", 7), ("n", 3)))).Select(e => e.GetProperty("choices")[0]))
            streamed[choice.GetProperty("index").GetInt32()] += choice.GetProperty("text").GetString();
        Assert.Equal(alone, streamed);
    }

    [Fact]
    public async Task N_OfSeveralPrompts_ComesInTheirOrder_WithEcho()
    {
        JsonElement answer = await _host.AskAsync(Completions, Sampled(("prompt", new JsonArray("One ", "Two ")), ("n", 2), ("echo", true), ("seed", 1)));
        string[] texts = Texts(answer);
        Assert.Equal(["One ", "One ", "Two ", "Two "], texts.Select(t => t[..4]));
    }

    [Fact]
    public async Task BestOf_GivesTheLikeliest()
    {
        JsonElement all = await _host.AskAsync(Completions, Sampled(("seed", 3), ("n", 4), ("logprobs", 0)));
        string likeliest = all.GetProperty("choices").EnumerateArray()
            .MaxBy(c => c.GetProperty("logprobs").GetProperty("token_logprobs").EnumerateArray().Average(l => l.GetDouble())).GetProperty("text").GetString()!;
        JsonElement best = await _host.AskAsync(Completions, Sampled(("seed", 3), ("n", 1), ("best_of", 4)));
        Assert.Equal([likeliest], Texts(best));
        Assert.Equal(4 * 12, best.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
        Assert.Equal(JsonValueKind.Null, best.GetProperty("choices")[0].GetProperty("logprobs").ValueKind);
    }

    [Fact]
    public async Task CachedTokens_AreReported_AndASaltKeepsThemApart()
    {
        string prompt = $"{Guid.NewGuid()} is a beginning of more than a block, which nobody has asked for before.";
        Assert.Equal(0, await CachedAsync(null));
        int hit = await CachedAsync(null);
        Assert.True(hit > 0 && hit % 16 == 0, $"{hit}");
        Assert.Equal(0, await CachedAsync("tenant"));
        Assert.Equal(hit, await CachedAsync("tenant"));

        async Task<int> CachedAsync(string? salt) =>
            (await _host.AskAsync(Completions, new JsonObject { ["prompt"] = prompt, ["max_tokens"] = 1, ["cache_salt"] = salt }))
                .GetProperty("usage").GetProperty("prompt_tokens_details").GetProperty("cached_tokens").GetInt32();
    }

    [Fact]
    public async Task PromptLogprobs_AreVllms_InBothApis()
    {
        JsonElement choice = (await _host.AskAsync(Completions, Sampled(("prompt_logprobs", 2)))).GetProperty("choices")[0];
        int[] prompt = [.. demo.Engine.Model.Tokenizer.EncodeToIds("The capital of")];
        JsonElement[] logprobs = [.. choice.GetProperty("prompt_logprobs").EnumerateArray()];
        Assert.Equal(prompt.Length, logprobs.Length);
        Assert.Equal(JsonValueKind.Null, logprobs[0].ValueKind);
        for (int i = 1; i < prompt.Length; i++)
        {
            JsonElement own = logprobs[i].GetProperty($"{prompt[i]}");
            Assert.True(own.GetProperty("logprob").GetDouble() < 0);
            Assert.Equal(demo.Engine.Model.Tokenizer.Decode([prompt[i]]), own.GetProperty("decoded_token").GetString());
            Assert.Contains(logprobs[i].EnumerateObject(), t => t.Value.GetProperty("rank") is { ValueKind: JsonValueKind.Number } rank && rank.GetInt32() == 1);
        }

        JsonElement chat = await _host.AskAsync(Chat, new JsonObject { ["messages"] = new JsonArray(new JsonObject { ["role"] = "user", ["content"] = "Hi" }), ["max_tokens"] = 1, ["prompt_logprobs"] = 0 });
        Assert.Equal(chat.GetProperty("usage").GetProperty("prompt_tokens").GetInt32(), chat.GetProperty("prompt_logprobs").GetArrayLength());
    }

    [Fact]
    public async Task TokenIds_AreThoseOfTheAnswer_WholeAndStreamed()
    {
        JsonObject body = Sampled(("return_token_ids", true), ("seed", 5));
        JsonElement choice = (await _host.AskAsync(Completions, body)).GetProperty("choices")[0];
        int[] ids = Ids(choice);
        Assert.Equal(12, ids.Length);
        Assert.Equal(choice.GetProperty("text").GetString(), demo.Engine.Model.Tokenizer.Decode(ids));
        Assert.Equal(ids, (await _host.StreamAsync(Completions, body)).SelectMany(e => Ids(e.GetProperty("choices")[0])));
    }

    [Fact]
    public async Task Timeout_GetsA504()
    {
        using HttpResponseMessage late = await _host.PostAsync(Completions, """{"prompt":"a","max_tokens":100000,"ignore_eos":true,"timeout":0.05,"n":8}""");
        JsonElement error = await ErrorTests.ErrorAsync(late, HttpStatusCode.GatewayTimeout);
        Assert.Equal("request_timeout", error.GetProperty("code").GetString());
        await DemoEngine.WaitUntilIdleAsync(demo.Engine);
    }

    [Fact]
    public async Task TheServersTimeout_BoundsTheRequests()
    {
        await using TestHost host = await TestHost.StartAsync(demo.Engine, new() { ModelName = "demo", RequestTimeout = TimeSpan.FromMilliseconds(50) });
        using HttpResponseMessage late = await host.PostAsync(Completions, """{"prompt":"a","max_tokens":100000,"ignore_eos":true,"timeout":3600,"n":8}""");
        await ErrorTests.ErrorAsync(late, HttpStatusCode.GatewayTimeout);
    }

    [Fact]
    public async Task Priority_LetsTheUrgentGoFirst()
    {
        await using QwenEngine engine = await QwenEngine.LoadAsync(options: new EngineOptions { MaxSequences = 1, MaxModelLength = 60_000 });
        await using TestHost host = await TestHost.StartAsync(engine);
        HttpResponseMessage running = await host.StartLongStreamAsync();
        await DemoEngine.WaitUntilAsync(engine, s => s.Running == 1);
        var order = new List<string>();
        Task later = AskAsync("later", 5);
        await DemoEngine.WaitUntilAsync(engine, s => s.Waiting == 1);
        Task urgent = AskAsync("urgent", -5);
        await DemoEngine.WaitUntilAsync(engine, s => s.Waiting == 2);
        running.Dispose();
        await Task.WhenAll(later, urgent);
        Assert.Equal(["urgent", "later"], order);

        async Task AskAsync(string name, int priority)
        {
            await host.AskAsync(Completions, new JsonObject { ["prompt"] = "a", ["max_tokens"] = 30, ["ignore_eos"] = true, ["priority"] = priority });
            lock (order)
                order.Add(name);
        }
    }

    private static string[] Texts(JsonElement answer) => [.. answer.GetProperty("choices").EnumerateArray().Select(c => c.GetProperty("text").GetString()!)];

    private static int[] Ids(JsonElement choice) => [.. choice.GetProperty("token_ids").EnumerateArray().Select(t => t.GetInt32())];

    private static JsonObject Sampled(params (string Name, JsonNode? Value)[] fields)
    {
        var body = new JsonObject { ["prompt"] = "The capital of", ["max_tokens"] = 12, ["temperature"] = 1.2, ["ignore_eos"] = true };
        foreach ((string name, JsonNode? value) in fields)
            body[name] = value;
        return body;
    }
}
