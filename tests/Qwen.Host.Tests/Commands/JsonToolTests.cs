using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

namespace Qwen.Host.Tests.Commands;

/// <summary>The tools with stable JSON: tokenize, render, logits, inspect, bench.</summary>
[Collection(DemoEngine.Collection)]
public sealed class JsonToolTests(DemoEngine demo)
{
    [Fact]
    public async Task Tokenize_GivesIds_AndSpecialSaysWhetherControlTokensCount()
    {
        Cli result = await Cli.SucceedAsync(["tokenize", "--jsonl"], """{"text":"What is 12 + 30?","special":false}""", "", """{"text":"<|im_end|>","special":true}""", """{"text":"<|im_end|>"}""", """{"text":""}""");

        Assert.Equal(4, result.Json.Length);
        Assert.Equal(demo.Engine.Model.Tokenizer.EncodeToIds("What is 12 + 30?"), Ids(result.Json[0]));
        Assert.Single(Ids(result.Json[1]));
        Assert.True(Ids(result.Json[2]).Length > 1);
        Assert.Equal("""{"ids":[]}""", result.Output.Split('\n')[3]);
    }

    [Fact]
    public async Task Tokenize_Decode_GivesTheExactBytes()
    {
        const string Text = "naïve 日本 <tag> 🙂";
        int[] ids = [.. demo.Engine.Model.Tokenizer.EncodeToIds(Text)];
        int half = Enumerable.Range(0, 256).First(id => demo.Engine.Model.Tokenizer.GetBytes(id)[0] == 0xF0);

        Cli result = await Cli.SucceedAsync(["tokenize", "--decode"], $$"""{"ids":[{{string.Join(',', ids)}}]}""", $$"""{"ids":[{{half}}]}""");

        Assert.Equal(Text, result.Json[0].GetProperty("text").GetString());
        Assert.Contains("naïve 日本 <tag>", result.Output, StringComparison.Ordinal); // written as it is, not escaped
        Assert.Equal(Encoding.UTF8.GetBytes(Text), result.Json[0].GetProperty("bytes").GetBytesFromBase64());
        Assert.Equal([0xF0], result.Json[1].GetProperty("bytes").GetBytesFromBase64());
        Assert.Equal("\uFFFD", result.Json[1].GetProperty("text").GetString());
    }

    [Theory]
    [InlineData("tokenize", "not JSON", "line: is not valid JSON")]
    [InlineData("tokenize", "[]", "line: is not a JSON object")]
    [InlineData("tokenize", """{"text":"\ud800"}""", "not valid Unicode")]
    [InlineData("tokenize", """{"txt":"x"}""", "text: is missing")]
    [InlineData("tokenize", """{"text":"x","special":1}""", "special: 1 is neither")]
    [InlineData("tokenize --decode", """{"ids":[99999]}""", "ids: 99999 is outside the vocabulary")]
    [InlineData("tokenize --decode", """{"ids":[-1]}""", "ids: -1 is outside the vocabulary")]
    [InlineData("tokenize --decode", """{"ids":[1.5]}""", "ids: 1.5 is not a whole number")]
    [InlineData("logits", """{"tokens":[]}""", "no token")]
    [InlineData("logits", """{"tokens":[99999]}""", "99999")]
    [InlineData("logits", """{"tokens":[1],"top":-1}""", "top: -1")]
    [InlineData("logits", """{"tokens":[1],"greedy":5000}""", "1024")]
    [InlineData("render", """{"messages":1}""", "messages: is missing")]
    [InlineData("render", """{"messages":[],"vars":[]}""", "vars: [] is not an object")]
    [InlineData("render", """{"messages":[{"role":"user","content":{}}]}""", "")]
    public async Task ALineThatCantBeAnswered_GetsAnError_AndTheNextIsRead(string command, string line, string expected)
    {
        string good = command switch
        {
            "tokenize" => """{"text":"a"}""",
            "logits" => """{"tokens":[1],"top":1}""",
            "render" => """{"messages":[{"role":"user","content":"Hi"}]}""",
            _ => """{"ids":[1]}""",
        };
        Cli result = await Cli.SucceedAsync(command.Split(' '), line, good);

        Assert.Equal(2, result.Json.Length);
        Assert.Contains(expected, result.Json[0].GetProperty("error").GetString(), StringComparison.Ordinal);
        Assert.False(result.Json[1].TryGetProperty("error", out _));
    }

    [Fact]
    public async Task Render_GivesThePrompt()
    {
        Cli result = await Cli.SucceedAsync(["render"], """{"messages":[{"role":"user","content":"Hi <b>"}],"vars":{"add_generation_prompt":true}}""");

        Assert.Equal("<|im_start|>user\nHi <b><|im_end|>\n<|im_start|>assistant\n", Assert.Single(result.Json).GetProperty("text").GetString());
    }

    [SkippableFact]
    public async Task Render_WithTemplateFile_GivesTheGoldens()
    {
        string folder = Repository.Golden("templates");
        string[] lines = await File.ReadAllLinesAsync(Path.Combine(folder, "cases.jsonl"));
        int compared = 0;
        foreach (IGrouping<string, JsonElement> cases in lines.Select(l => JsonElement.Parse(l)).GroupBy(c => c.GetProperty("template").GetString()!))
        {
            string file = Path.Combine(folder, Path.HasExtension(cases.Key) ? cases.Key : cases.Key + ".jinja");
            JsonElement[] answers = (await Cli.SucceedAsync(["render", "--jsonl", "--template", file], [.. cases.Select(c => c.GetRawText())])).Json;
            foreach ((JsonElement test, JsonElement answer) in cases.Zip(answers))
            {
                if (test.TryGetProperty("expected", out JsonElement expected))
                    Assert.Equal(expected.GetString(), answer.GetProperty("text").GetString());
                else
                    Assert.NotEmpty(answer.GetProperty("error").GetString()!);
                compared++;
            }
        }

        Assert.Equal(lines.Length, compared);
    }

    [Fact]
    public async Task Logits_GivesTheLikeliest_AndAGreedyContinuation()
    {
        IReadOnlyList<int> prompt = demo.Engine.EncodeChat(ChatRequest.FromUser(DemoEngine.Question));
        int vocabulary = demo.Engine.Model.Config.VocabularySize;
        Cli result = await Cli.SucceedAsync(["logits", "--jsonl", "--threads", "1"], $$"""{"tokens":[{{string.Join(',', prompt)}}],"top":{{vocabulary + 5}},"greedy":6}""", $$"""{"tokens":[{{string.Join(',', prompt)}}]}""");

        JsonElement[] top = [.. result.Json[0].GetProperty("top").EnumerateArray()];
        Assert.Equal(vocabulary, top.Length);
        Assert.Equal(1, top.Sum(t => Math.Exp(t.GetProperty("logprob").GetDouble())), 9);
        Assert.All(top.Zip(top.Skip(1)), pair => Assert.True(
            pair.First.GetProperty("logit").GetDouble() > pair.Second.GetProperty("logit").GetDouble()
            || (pair.First.GetProperty("logit").GetDouble() == pair.Second.GetProperty("logit").GetDouble() && pair.First.GetProperty("id").GetInt32() < pair.Second.GetProperty("id").GetInt32())));
        Assert.Equal(top[0].GetProperty("logit").GetDouble() - top[9].GetProperty("logit").GetDouble(), top[0].GetProperty("logprob").GetDouble() - top[9].GetProperty("logprob").GetDouble(), 4);

        JsonElement[] greedy = [.. result.Json[0].GetProperty("greedy").EnumerateArray()];
        var expected = new List<GeneratedToken>();
        await foreach (GenerationChunk chunk in demo.Engine.GenerateAsync(prompt, new SamplingOptions { Temperature = 0, IgnoreEos = true, MaxTokens = 6, Logprobs = 0 }))
            expected.AddRange(chunk.Tokens);
        Assert.Equal(expected.Select(t => t.Id), greedy.Select(t => t.GetProperty("id").GetInt32()));
        Assert.All(expected.Zip(greedy), pair => Assert.Equal(pair.First.Logprobs!.Logprob, pair.Second.GetProperty("logprob").GetDouble(), 5));
        Assert.Contains(demo.Engine.Model.EosTokenIds, id => id == greedy[2].GetProperty("id").GetInt32()); // goes on over it

        Assert.Equal("""{"top":[],"greedy":[]}""", result.Output.Split('\n')[1]);
    }

    [Fact]
    public async Task Logits_ObeysRopeScaling_AndTheCachesType()
    {
        const string Line = """{"tokens":[5,6,7,8,9,10,11,12],"top":1}""";
        double plain = await LogitAsync(), f32 = await LogitAsync("--kv-cache-dtype", "f32"), bf16 = await LogitAsync("--kv-cache-dtype", "bf16");
        double scaled = await LogitAsync("--rope-scaling", """{"rope_type":"linear","factor":4}""");

        Assert.Equal(plain, f32, 0.1);
        Assert.Equal(plain, bf16, 0.5);
        Assert.Equal(3, new[] { plain, f32, bf16 }.Distinct().Count());
        Assert.NotEqual(plain, scaled, 1e-3);

        async Task<double> LogitAsync(params string[] flags) => (await Cli.SucceedAsync(["logits", .. flags], Line)).Json[0].GetProperty("top")[0].GetProperty("logit").GetDouble();
    }

    [Fact]
    public async Task Inspect_DescribesTheModel()
    {
        JsonElement json = Assert.Single((await Cli.SucceedAsync(["inspect", "--json"])).Json);

        Assert.Equal("qwen2", json.GetProperty("architecture").GetString());
        Assert.Equal(4, json.GetProperty("layers").GetInt32());
        Assert.Equal(2, json.GetProperty("attention").GetProperty("kv_heads").GetInt32());
        JsonElement type = json.GetProperty("tensors").GetProperty("BF16");
        Assert.Equal(type.GetProperty("bytes").GetInt64(), json.GetProperty("memory").GetProperty("weight_bytes").GetInt64());
        Assert.Equal(2 * json.GetProperty("parameters").GetInt64(), type.GetProperty("bytes").GetInt64());
        Assert.Equal(4 * 2 * 2 * 64 * 2, json.GetProperty("memory").GetProperty("kv_bytes_per_token").GetInt64()); // layers, K and V, heads, width, F16

        string text = (await Cli.SucceedAsync(["inspect"])).Output;
        Assert.Contains("architecture", text, StringComparison.Ordinal);
        Assert.Contains("3,674,368", text, StringComparison.Ordinal);
    }

    /// <summary>A model of 144 GB: nothing of it is made.</summary>
    [Theory]
    [InlineData("awq", "awq", 4, 128)]
    [InlineData("gptq-int8", "gptq", 8, 128)]
    [InlineData("fp8-block", "fp8", 8, null)]
    public async Task Inspect_SaysHowAModelIsQuantized(string format, string method, int bits, int? group)
    {
        JsonElement json = Assert.Single((await Cli.SucceedAsync(["inspect", "--json", "--model", "synthetic:qwen2.5-72b:" + format])).Json);

        JsonElement quantization = json.GetProperty("quantization");
        Assert.Equal((method, bits), (quantization.GetProperty("method").GetString(), quantization.GetProperty("bits").GetInt32()));
        Assert.Equal(group, quantization.TryGetProperty("group_size", out JsonElement size) ? size.GetInt32() : null);
        Assert.Equal(72.7, json.GetProperty("parameters").GetInt64() / 1e9, 0.1);
        Assert.Equal("[151643]", Assert.Single((await Cli.SucceedAsync(["tokenize", "--model", "synthetic:qwen2.5-72b:" + format], """{"text":"<|endoftext|>","special":true}""")).Json).GetProperty("ids").GetRawText());
    }

    [Fact]
    public async Task Inspect_Devices_SaysWhatCanCompute_AndWhyNot()
    {
        JsonElement json = Assert.Single((await Cli.SucceedAsync(["inspect", "--devices", "--json"])).Json);

        Assert.StartsWith("cpu", json.GetProperty("cpu").GetString(), StringComparison.Ordinal);
        Assert.True(json.GetProperty("threads").GetInt32() > 0);
        Assert.Matches("^(available|not available: .+)$", json.GetProperty("cuda").GetString());
        Assert.Equal(JsonValueKind.Array, json.GetProperty("gpus").ValueKind);
    }

    [Fact]
    public async Task Bench_MeasuresEveryRepeat()
    {
        Cli result = await Cli.SucceedAsync(["bench", "--prompt-tokens", "40", "--gen-tokens", "4", "--repeat", "3", "--threads", "1", "--json"]);

        JsonElement json = Assert.Single(result.Json);
        Assert.Equal(1, json.GetProperty("threads").GetInt32());
        foreach (string name in (string[])["prefill", "decode"])
        {
            double[] runs = [.. json.GetProperty(name).EnumerateArray().Select(r => r.GetDouble())];
            Assert.Equal(3, runs.Length);
            Assert.Equal(runs.Order().ElementAt(1), json.GetProperty($"{name}_tokens_per_s").GetDouble());
        }

        foreach (string name in (string[])["load_ms", "time_to_first_token_ms", "peak_rss_bytes", "weight_bytes_per_token", "kv_bytes_per_token", "read_bandwidth_bytes_per_s", "decode_bandwidth_fraction"])
            Assert.True(json.GetProperty(name).GetDouble() > 0, name);
        Assert.InRange(json.GetProperty("weight_bytes_per_token").GetInt64(), 7_200_000, 7_400_000); // all of the demo model
    }

    private static int[] Ids(JsonElement line) => [.. line.GetProperty("ids").EnumerateArray().Select(id => id.GetInt32())];
}
