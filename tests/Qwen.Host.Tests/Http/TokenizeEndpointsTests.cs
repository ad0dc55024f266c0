using System.Net;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Qwen.Host.Tests.Http;

[Collection(DemoEngine.Collection)]
public sealed class TokenizeEndpointsTests(DemoEngine demo) : IAsyncLifetime
{
    private TestHost _host = null!;

    public async Task InitializeAsync() => _host = await TestHost.StartAsync(demo.Engine);

    public async Task DisposeAsync() => await _host.DisposeAsync();

    [Fact]
    public async Task Prompt_ToTokensAndBack()
    {
        JsonElement tokens = await _host.AskAsync("/tokenize", new JsonObject { ["prompt"] = "Hello world", ["return_token_strs"] = true });
        int[] ids = [.. tokens.GetProperty("tokens").EnumerateArray().Select(t => t.GetInt32())];
        Assert.Equal(demo.Engine.Model.Tokenizer.EncodeToIds("Hello world"), ids);
        Assert.Equal(ids.Length, tokens.GetProperty("count").GetInt32());
        Assert.Equal(demo.Engine.Model.MaxModelLength, tokens.GetProperty("max_model_len").GetInt32());
        Assert.Equal("Hello world", string.Concat(tokens.GetProperty("token_strs").EnumerateArray().Select(t => t.GetString())));
        JsonElement text = await _host.AskAsync("/detokenize", new JsonObject { ["tokens"] = new JsonArray([.. ids.Select(i => (JsonNode)i)]) });
        Assert.Equal("Hello world", text.GetProperty("prompt").GetString());
    }

    [Fact]
    public async Task Messages_AreThePromptOfTheChat()
    {
        JsonElement tokens = await _host.AskAsync("/tokenize", new JsonObject { ["messages"] = new JsonArray(new JsonObject { ["role"] = "user", ["content"] = "Hi" }) });
        Assert.Equal(demo.Engine.EncodeChat(Runtime.Engine.ChatRequest.FromUser("Hi")), tokens.GetProperty("tokens").EnumerateArray().Select(t => t.GetInt32()));
    }

    [Theory]
    [InlineData("/tokenize", "{}", "prompt")]
    [InlineData("/tokenize", """{"prompt": 3}""", "prompt")]
    [InlineData("/detokenize", "{}", "tokens")]
    [InlineData("/detokenize", """{"tokens": [1, -1]}""", "tokens[1]")]
    [InlineData("/detokenize", """{"tokens": [99999999]}""", "tokens[0]")]
    [InlineData("/detokenize", """{"tokens": ["a"]}""", "tokens[0]")]
    public async Task WrongField_IsNamed(string path, string body, string field)
    {
        using HttpResponseMessage response = await _host.PostAsync(path, body);
        JsonElement error = await ErrorTests.ErrorAsync(response, HttpStatusCode.BadRequest);
        Assert.Equal(field, error.GetProperty("param").GetString());
    }
}
