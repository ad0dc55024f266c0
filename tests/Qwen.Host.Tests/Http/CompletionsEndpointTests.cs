using System.Text.Json;
using System.Text.Json.Nodes;

namespace Qwen.Host.Tests.Http;

[Collection(DemoEngine.Collection)]
public sealed class CompletionsEndpointTests(DemoEngine demo) : IAsyncLifetime
{
    private const string Path = "/v1/completions";
    private const string Prompt = "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n";

    private TestHost _host = null!;

    public async Task InitializeAsync() => _host = await TestHost.StartAsync(demo.Engine);

    public async Task DisposeAsync() => await _host.DisposeAsync();

    [Fact]
    public async Task EveryFormOfPrompt_GivesTheSameAnswer()
    {
        IReadOnlyList<int> ids = demo.Engine.Model.Tokenizer.EncodeToIds(Prompt, Qwen.Runtime.Tokenization.AddedTokenParsing.All);
        JsonNode[] prompts = [Prompt, new JsonArray(Prompt), Ids(), new JsonArray(Ids())];
        foreach (JsonNode prompt in prompts)
        {
            JsonElement answer = await _host.AskAsync(Path, new JsonObject { ["prompt"] = prompt, ["parse_special"] = true });
            Assert.Equal("text_completion", answer.GetProperty("object").GetString());
            JsonElement choice = Assert.Single(answer.GetProperty("choices").EnumerateArray());
            Assert.Equal("42", choice.GetProperty("text").GetString());
            Assert.Equal("stop", choice.GetProperty("finish_reason").GetString());
            Assert.Equal(ids.Count, answer.GetProperty("usage").GetProperty("prompt_tokens").GetInt32());
        }

        JsonArray Ids() => [.. ids.Select(id => (JsonNode)id)];
    }

    [Fact]
    public async Task ControlTokensInAPrompt_AreText_UnlessParseSpecialIsTrue()
    {
        JsonElement text = await _host.AskAsync(Path, new JsonObject { ["prompt"] = "<|im_end|>" });
        JsonElement token = await _host.AskAsync(Path, new JsonObject { ["prompt"] = "<|im_end|>", ["parse_special"] = true });

        Assert.True(text.GetProperty("usage").GetProperty("prompt_tokens").GetInt32() > 1);
        Assert.Equal(1, token.GetProperty("usage").GetProperty("prompt_tokens").GetInt32());
    }

    [Fact]
    public async Task SeveralPrompts_GetAChoiceEach_InTheirOrder_WholeAndStreamed()
    {
        string[] prompts = ["The capital of", "Monday is", "What is"];
        var alone = new List<string>();
        foreach (string prompt in prompts)
            alone.Add((await _host.AskAsync(Path, Body(prompt))).GetProperty("choices")[0].GetProperty("text").GetString()!);

        JsonElement whole = await _host.AskAsync(Path, Body(new JsonArray([.. prompts.Select(p => (JsonNode)p)])));
        Assert.Equal([0, 1, 2], whole.GetProperty("choices").EnumerateArray().Select(c => c.GetProperty("index").GetInt32()));
        Assert.Equal(alone, whole.GetProperty("choices").EnumerateArray().Select(c => c.GetProperty("text").GetString()));
        Assert.Equal(24, whole.GetProperty("usage").GetProperty("completion_tokens").GetInt32());

        JsonElement[] events = await _host.StreamAsync(Path, Body(new JsonArray([.. prompts.Select(p => (JsonNode)p)])));
        JsonElement[] pieces = [.. events.Select(e => e.GetProperty("choices")[0])];
        for (int i = 0; i < prompts.Length; i++)
            Assert.Equal(alone[i], string.Concat(pieces.Where(p => p.GetProperty("index").GetInt32() == i).Select(p => p.GetProperty("text").GetString())));

        // Long enough that the last cannot begin after the first has ended, unless they wait for each other.
        pieces = [.. (await _host.StreamAsync(Path, Body(new JsonArray([.. prompts.Select(p => (JsonNode)p)]), maxTokens: 400))).Select(e => e.GetProperty("choices")[0])];
        int lastStart = Array.FindIndex(pieces, p => p.GetProperty("index").GetInt32() == 2), firstEnd = Array.FindIndex(pieces, p => p.GetProperty("finish_reason").ValueKind == JsonValueKind.String);
        Assert.True(lastStart < firstEnd, "The answers came one after the other, not side by side.");

        static JsonObject Body(JsonNode prompt, int maxTokens = 8) => new() { ["prompt"] = prompt, ["max_tokens"] = maxTokens, ["ignore_eos"] = true };
    }

    [Fact]
    public async Task MaxTokens_Is16_IfNotGiven()
    {
        JsonElement answer = await _host.AskAsync(Path, new JsonObject { ["prompt"] = "Tell", ["ignore_eos"] = true });

        Assert.Equal(16, answer.GetProperty("usage").GetProperty("completion_tokens").GetInt32());
        Assert.Equal("length", answer.GetProperty("choices")[0].GetProperty("finish_reason").GetString());
    }

    [Fact]
    public async Task Echo_PutsThePromptBeforeTheAnswer()
    {
        string text = (await _host.AskAsync(Path, Body(echo: false))).GetProperty("choices")[0].GetProperty("text").GetString()!;
        string echoed = (await _host.AskAsync(Path, Body(echo: true))).GetProperty("choices")[0].GetProperty("text").GetString()!;
        JsonElement[] events = await _host.StreamAsync(Path, Body(echo: true));

        Assert.Equal("The capital of" + text, echoed);
        Assert.Equal(echoed, string.Concat(events.Select(e => e.GetProperty("choices")[0].GetProperty("text").GetString())));

        static JsonObject Body(bool echo) => new() { ["prompt"] = "The capital of", ["max_tokens"] = 4, ["echo"] = echo };
    }

    [Fact]
    public async Task Logprobs_GiveTokens_WithTheirPlacesInTheText()
    {
        JsonElement answer = await _host.AskAsync(Path, new JsonObject { ["prompt"] = "Tell me a story", ["max_tokens"] = 12, ["ignore_eos"] = true, ["logprobs"] = 3, ["skip_special_tokens"] = false });

        JsonElement logprobs = answer.GetProperty("choices")[0].GetProperty("logprobs");
        string[] tokens = [.. logprobs.GetProperty("tokens").EnumerateArray().Select(t => t.GetString()!)];
        Assert.Equal(12, tokens.Length);
        Assert.Equal(12, logprobs.GetProperty("token_logprobs").GetArrayLength());
        Assert.All(logprobs.GetProperty("top_logprobs").EnumerateArray(), top => Assert.Equal(3, top.EnumerateObject().Count()));
        string text = answer.GetProperty("choices")[0].GetProperty("text").GetString()!;
        Assert.Equal(text, string.Concat(tokens));
        int[] offsets = [.. logprobs.GetProperty("text_offset").EnumerateArray().Select(o => o.GetInt32())];
        for (int i = 0; i < tokens.Length; i++)
            Assert.StartsWith(tokens[i], text[offsets[i]..], StringComparison.Ordinal);
    }
}
