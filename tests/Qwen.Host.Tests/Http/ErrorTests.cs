using System.Net;
using System.Text;
using System.Text.Json;

namespace Qwen.Host.Tests.Http;

[Collection(DemoEngine.Collection)]
public sealed class ErrorTests(DemoEngine demo) : IAsyncLifetime
{
    private const string Chat = "/v1/chat/completions", Completions = "/v1/completions";
    private const string User = """ "messages":[{"role":"user","content":"Hi"}] """;

    private TestHost _host = null!;

    public async Task InitializeAsync() => _host = await TestHost.StartAsync(demo.Engine);

    public async Task DisposeAsync() => await _host.DisposeAsync();

    [Theory]
    [InlineData(Chat, "", null)]
    [InlineData(Chat, "{", null)]
    [InlineData(Chat, "[1]", null)]
    [InlineData(Chat, "{\"messages\":1,\"messages\":2}", null)]
    [InlineData(Chat, "{" + User + ",\"stop\":\"\\ud800\"}", null)]
    [InlineData(Chat, "{" + User + ",\"x\":[[{\"\\udc00\":1}]]}", null)]
    [InlineData(Chat, "{}", "messages")]
    [InlineData(Chat, """{"messages":[]}""", "messages")]
    [InlineData(Chat, """{"messages":"Hi"}""", "messages")]
    [InlineData(Chat, """{"messages":["Hi"]}""", "messages[0]")]
    [InlineData(Chat, """{"messages":[{"content":"Hi"}]}""", "messages[0].role")]
    [InlineData(Chat, """{"messages":[{"role":"user","content":"a"},{"role":"judge","content":"Hi"}]}""", "messages[1].role")]
    [InlineData(Chat, """{"messages":[{"role":"user"}]}""", "messages[0].content")]
    [InlineData(Chat, """{"messages":[{"role":"user","content":7}]}""", "messages[0].content")]
    [InlineData(Chat, """{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}""", "messages[0].content[0].type")]
    [InlineData(Chat, """{"messages":[{"role":"user","content":[{"type":"text"}]}]}""", "messages[0].content[0].text")]
    [InlineData(Chat, """{"messages":[{"role":"assistant","tool_calls":[{"id":"1"}]}]}""", "messages[0].tool_calls[0].function")]
    [InlineData(Chat, """{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"[1]"}}]}]}""", "messages[0].tool_calls[0].function.arguments")]
    [InlineData(Chat, """{"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{"}}]}]}""", "messages[0].tool_calls[0].function.arguments")]
    [InlineData(Chat, "{" + User + ",\"temperature\":\"hot\"}", "temperature")]
    [InlineData(Chat, "{" + User + ",\"temperature\":-1}", "temperature")]
    [InlineData(Chat, "{" + User + ",\"temperature\":1e999}", "temperature")]
    [InlineData(Chat, "{" + User + ",\"top_p\":2}", "top_p")]
    [InlineData(Chat, "{" + User + ",\"top_k\":1.5}", "top_k")]
    [InlineData(Chat, "{" + User + ",\"top_k\":99999999999}", "top_k")]
    [InlineData(Chat, "{" + User + ",\"min_p\":[]}", "min_p")]
    [InlineData(Chat, "{" + User + ",\"presence_penalty\":3}", "presence_penalty")]
    [InlineData(Chat, "{" + User + ",\"frequency_penalty\":{}}", "frequency_penalty")]
    [InlineData(Chat, "{" + User + ",\"repetition_penalty\":0}", "repetition_penalty")]
    [InlineData(Chat, "{" + User + ",\"logit_bias\":[1]}", "logit_bias")]
    [InlineData(Chat, "{" + User + ",\"logit_bias\":{\"x\":1}}", "logit_bias")]
    [InlineData(Chat, "{" + User + ",\"logit_bias\":{\"1\":101}}", "logit_bias")]
    [InlineData(Chat, "{" + User + ",\"logit_bias\":{\"999999\":1}}", "logit_bias")]
    [InlineData(Chat, "{" + User + ",\"seed\":1.5}", "seed")]
    [InlineData(Chat, "{" + User + ",\"max_tokens\":0}", "max_tokens")]
    [InlineData(Chat, "{" + User + ",\"max_completion_tokens\":\"9\"}", "max_completion_tokens")]
    [InlineData(Chat, "{" + User + ",\"min_tokens\":-1}", "min_tokens")]
    [InlineData(Chat, "{" + User + ",\"stop\":[1]}", "stop[0]")]
    [InlineData(Chat, "{" + User + ",\"stop\":\"\"}", "stop")]
    [InlineData(Chat, "{" + User + ",\"stop_token_ids\":[1,\"2\"]}", "stop_token_ids[1]")]
    [InlineData(Chat, "{" + User + ",\"stop_token_ids\":[-1]}", "stop_token_ids")]
    [InlineData(Chat, "{" + User + ",\"ignore_eos\":1}", "ignore_eos")]
    [InlineData(Chat, "{" + User + ",\"logprobs\":2}", "logprobs")]
    [InlineData(Chat, "{" + User + ",\"top_logprobs\":2}", "top_logprobs")]
    [InlineData(Chat, "{" + User + ",\"logprobs\":true,\"top_logprobs\":21}", "logprobs")]
    [InlineData(Chat, "{" + User + ",\"stream\":\"yes\"}", "stream")]
    [InlineData(Chat, "{" + User + ",\"stream_options\":{\"include_usage\":true}}", "stream_options")]
    [InlineData(Chat, "{" + User + ",\"stream\":true,\"stream_options\":{\"include_usage\":1}}", "stream_options.include_usage")]
    [InlineData(Chat, "{" + User + ",\"n\":0}", "n")]
    [InlineData(Chat, "{" + User + ",\"n\":129}", "n")]
    [InlineData(Chat, "{" + User + ",\"n\":\"2\"}", "n")]
    [InlineData(Chat, "{" + User + ",\"priority\":0.5}", "priority")]
    [InlineData(Chat, "{" + User + ",\"cache_salt\":\"\"}", "cache_salt")]
    [InlineData(Chat, "{" + User + ",\"cache_salt\":7}", "cache_salt")]
    [InlineData(Chat, "{" + User + ",\"timeout\":0}", "timeout")]
    [InlineData(Chat, "{" + User + ",\"timeout\":1e300}", "timeout")]
    [InlineData(Chat, "{" + User + ",\"prompt_logprobs\":21}", "prompt_logprobs")]
    [InlineData(Chat, "{" + User + ",\"prompt_logprobs\":1,\"stream\":true}", "prompt_logprobs")]
    [InlineData(Chat, "{" + User + ",\"return_token_ids\":1}", "return_token_ids")]
    [InlineData(Chat, "{" + User + ",\"model\":5}", "model")]
    [InlineData(Chat, "{" + User + ",\"response_format\":{\"type\":\"json_object\"}}", "response_format.type")]
    [InlineData(Chat, "{" + User + ",\"tools\":{}}", "tools")]
    [InlineData(Chat, "{" + User + ",\"tools\":[{\"type\":\"function\"}]}", "tools[0].function")]
    [InlineData(Chat, "{" + User + ",\"tools\":[{\"type\":\"function\",\"function\":{}}]}", "tools[0].function.name")]
    [InlineData(Chat, "{" + User + ",\"tools\":[{\"type\":\"web_search\"}]}", "tools[0].type")]
    [InlineData(Chat, "{" + User + ",\"tool_choice\":\"required\"}", "tool_choice")]
    [InlineData(Chat, "{" + User + ",\"tool_choice\":{\"type\":\"function\"}}", "tool_choice")]
    [InlineData(Chat, "{" + User + ",\"functions\":[]}", "functions")]
    [InlineData(Chat, "{" + User + ",\"chat_template_kwargs\":7}", "chat_template_kwargs")]
    [InlineData(Chat, "{" + User + ",\"chat_template_kwargs\":{\"eos_token\":\"<|im_end|>\"}}", "chat_template_kwargs.eos_token")]
    [InlineData(Completions, "{}", "prompt")]
    [InlineData(Completions, """{"prompt":""}""", "prompt")]
    [InlineData(Completions, """{"prompt":[]}""", "prompt")]
    [InlineData(Completions, """{"prompt":{}}""", "prompt")]
    [InlineData(Completions, """{"prompt":[[]]}""", "prompt")]
    [InlineData(Completions, """{"prompt":[1,"a"]}""", "prompt[1]")]
    [InlineData(Completions, """{"prompt":["a",1]}""", "prompt[1]")]
    [InlineData(Completions, """{"prompt":[[1,2],[3,null]]}""", "prompt[1][1]")]
    [InlineData(Completions, """{"prompt":[2048]}""", "prompt")]
    [InlineData(Completions, """{"prompt":[-1]}""", "prompt")]
    [InlineData(Completions, """{"prompt":"a","n":3,"best_of":2}""", "best_of")]
    [InlineData("/v1/prefixes", "{}", "prompt")]
    [InlineData("/v1/prefixes", """{"prompt":["a","b"]}""", "prompt")]
    [InlineData("/v1/prefixes", """{"messages":[]}""", "messages")]
    [InlineData("/v1/prefixes", """{"prompt":"a","cache_salt":""}""", "cache_salt")]
    [InlineData("/v1/prefixes/restore", """{"filename":"a"}""", null)]
    [InlineData(Completions, """{"prompt":"a","suffix":"b"}""", "suffix")]
    [InlineData(Completions, """{"prompt":"a","echo":true,"logprobs":1}""", "logprobs")]
    [InlineData(Completions, """{"prompt":"a","parse_special":"yes"}""", "parse_special")]
    public async Task WrongRequest_Gets400_ThatNamesTheField(string path, string body, string? field)
    {
        using HttpResponseMessage response = await _host.PostAsync(path, body);

        JsonElement error = await ErrorAsync(response, HttpStatusCode.BadRequest);
        Assert.Equal("invalid_request_error", error.GetProperty("type").GetString());
        Assert.Equal(field, error.GetProperty("param").GetString());
        if (field is not null)
            Assert.Contains(field.Split('[', '.')[0], error.GetProperty("message").GetString(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("GET", "/nothing", HttpStatusCode.NotFound, "unknown_url")]
    [InlineData("GET", "/v1/nothing%0Ahere", HttpStatusCode.NotFound, "unknown_url")]
    [InlineData("GET", Chat, HttpStatusCode.MethodNotAllowed, "method_not_allowed")]
    [InlineData("DELETE", "/v1/models", HttpStatusCode.MethodNotAllowed, "method_not_allowed")]
    [InlineData("GET", "/v1/models/gpt-4o", HttpStatusCode.NotFound, "model_not_found")]
    [InlineData("GET", "/v1/models/Qwen/Qwen3-8B", HttpStatusCode.NotFound, "model_not_found")]
    public async Task WrongRoute_GetsAnErrorObject(string method, string path, HttpStatusCode status, string code)
    {
        using var request = new HttpRequestMessage(new HttpMethod(method), path);
        using HttpResponseMessage response = await _host.Client.SendAsync(request);

        Assert.Equal(code, (await ErrorAsync(response, status)).GetProperty("code").GetString());
    }

    [Theory]
    [InlineData(Chat)]
    [InlineData(Completions)]
    public async Task UnknownModel_Gets404(string path)
    {
        using HttpResponseMessage response = await _host.PostAsync(path, """{"model":"gpt-4o","prompt":"a","messages":[{"role":"user","content":"Hi"}]}""");

        JsonElement error = await ErrorAsync(response, HttpStatusCode.NotFound);
        Assert.Equal("model", error.GetProperty("param").GetString());
        Assert.Equal("model_not_found", error.GetProperty("code").GetString());
    }

    [Fact]
    public async Task AnotherContentType_Gets415()
    {
        using var content = new StringContent("{" + User + "}", Encoding.UTF8, "text/plain");
        using HttpResponseMessage response = await _host.Client.PostAsync(Chat, content);

        await ErrorAsync(response, HttpStatusCode.UnsupportedMediaType);
    }

    [Fact]
    public async Task DeepNesting_Gets400()
    {
        using HttpResponseMessage response = await _host.PostAsync(Chat, "{\"messages\":" + new string('[', 100_000));

        await ErrorAsync(response, HttpStatusCode.BadRequest);
    }

    [Fact]
    public async Task APromptLongerThanTheContext_GetsItsOwnCode()
    {
        string ids = string.Join(',', Enumerable.Repeat(5, demo.Engine.Model.MaxModelLength));
        using HttpResponseMessage response = await _host.PostAsync(Completions, $$"""{"prompt":[{{ids}}],"stream":true}""");

        Assert.Equal("context_length_exceeded", (await ErrorAsync(response, HttpStatusCode.BadRequest)).GetProperty("code").GetString());
    }

    [Fact]
    public async Task UnknownFields_AreIgnored()
    {
        using HttpResponseMessage response = await _host.PostAsync(Chat, "{" + User + ",\"user\":\"me\",\"metadata\":{\"a\":1},\"model\":null,\"max_tokens\":1}");

        Assert.Equal(HttpStatusCode.OK, response.StatusCode);
    }

    [Fact]
    public async Task Models_NamesTheServedOne()
    {
        using JsonDocument list = JsonDocument.Parse(await _host.Client.GetStringAsync("/v1/models"));
        JsonElement model = Assert.Single(list.RootElement.GetProperty("data").EnumerateArray());
        Assert.Equal("demo", model.GetProperty("id").GetString());
        Assert.Equal(1024, model.GetProperty("max_model_len").GetInt32());
        using JsonDocument one = JsonDocument.Parse(await _host.Client.GetStringAsync("/v1/models/demo"));
        Assert.Equal(model.GetRawText(), one.RootElement.GetRawText());
    }

    [Fact]
    public async Task Health_IsOk() => Assert.Equal("""{"status":"ok","engine":"ready"}""", await _host.Client.GetStringAsync("/health"));

    internal static async Task<JsonElement> ErrorAsync(HttpResponseMessage response, HttpStatusCode status)
    {
        string text = await response.Content.ReadAsStringAsync();
        Assert.True(response.StatusCode == status, $"{(int)response.StatusCode}: {text}");
        Assert.Equal("application/json", response.Content.Headers.ContentType?.MediaType);
        JsonElement error = JsonElement.Parse(text).GetProperty("error");
        Assert.NotEmpty(error.GetProperty("message").GetString()!);
        Assert.Equal(["message", "type", "param", "code"], error.EnumerateObject().Select(p => p.Name));
        return error;
    }
}
