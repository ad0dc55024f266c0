using System.Net;
using System.Text.Json;
using System.Text.Json.Nodes;
using Qwen.Host.Http;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Tests.Http;

public sealed class PrefixEndpointsTests : IAsyncLifetime
{
    private const string Path = "/v1/prefixes", Text = "You are an assistant that answers each question in as few words as it takes, and never tells a story.";

    private readonly string _folder = Directory.CreateTempSubdirectory("qwen-prefixes").FullName;
    private QwenEngine _engine = null!;
    private TestHost _host = null!;

    public async Task InitializeAsync()
    {
        _engine = await QwenEngine.LoadAsync();
        _host = await TestHost.StartAsync(_engine, new ServerOptions { ModelName = "demo", PrefixDirectory = _folder });
    }

    public async Task DisposeAsync()
    {
        await _host.DisposeAsync();
        await _engine.DisposeAsync();
        Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public async Task APrefix_IsPinned_Listed_Used_AndDeleted()
    {
        JsonElement pinned = await _host.AskAsync(Path, new JsonObject { ["prompt"] = Text });
        string id = pinned.GetProperty("id").GetString()!;
        int held = pinned.GetProperty("cached_tokens").GetInt32();
        Assert.Equal(pinned.GetProperty("tokens").GetInt32() / 16 * 16, held);
        Assert.Equal(held / 16, _engine.Statistics.TotalBlocks - _engine.Statistics.FreeBlocks);

        JsonElement listed = JsonElement.Parse(await _host.Client.GetStringAsync(Path));
        Assert.Equal(id, Assert.Single(listed.GetProperty("data").EnumerateArray()).GetProperty("id").GetString());
        Assert.Equal(held, await CachedAsync());

        using HttpResponseMessage deleted = await _host.Client.DeleteAsync($"{Path}/{id}");
        Assert.Equal(HttpStatusCode.OK, deleted.StatusCode);
        using HttpResponseMessage again = await _host.Client.DeleteAsync($"{Path}/{id}");
        await ErrorTests.ErrorAsync(again, HttpStatusCode.NotFound);
        await DemoEngine.WaitUntilIdleAsync(_engine);
    }

    [Fact]
    public async Task APrefixOfMessages_IsTheBeginningOfTheChat()
    {
        var system = new JsonObject { ["role"] = "system", ["content"] = Text };
        JsonElement pinned = await _host.AskAsync(Path, new JsonObject { ["messages"] = new JsonArray(system) });
        JsonElement answer = await _host.AskAsync("/v1/chat/completions", new JsonObject
        {
            ["messages"] = new JsonArray(system.DeepClone(), new JsonObject { ["role"] = "user", ["content"] = "Hi" }),
            ["max_tokens"] = 1,
        });
        Assert.Equal(pinned.GetProperty("cached_tokens").GetInt32(), answer.GetProperty("usage").GetProperty("prompt_tokens_details").GetProperty("cached_tokens").GetInt32());
    }

    [Fact]
    public async Task ASavedPrefix_IsRestored_ByAnotherEngine()
    {
        string id = (await _host.AskAsync(Path, new JsonObject { ["prompt"] = Text })).GetProperty("id").GetString()!;
        JsonElement saved = await _host.AskAsync($"{Path}/{id}/save", new JsonObject { ["filename"] = "system.kv" });
        Assert.Equal(new FileInfo(System.IO.Path.Combine(_folder, "system.kv")).Length, saved.GetProperty("bytes").GetInt64());

        await using QwenEngine other = await QwenEngine.LoadAsync();
        await using TestHost host = await TestHost.StartAsync(other, new ServerOptions { ModelName = "demo", PrefixDirectory = _folder });
        JsonElement restored = await host.AskAsync($"{Path}/restore", new JsonObject { ["filename"] = "system.kv" });
        JsonElement answer = await host.AskAsync("/v1/completions", new JsonObject { ["prompt"] = Text, ["max_tokens"] = 1 });
        Assert.Equal(restored.GetProperty("cached_tokens").GetInt32(), answer.GetProperty("usage").GetProperty("prompt_tokens_details").GetProperty("cached_tokens").GetInt32());
    }

    [Fact]
    public async Task APrefixShorterThanABlock_IsRefused()
    {
        using HttpResponseMessage response = await _host.PostAsync(Path, """{"prompt":"short"}""");
        Assert.Equal("prompt", (await ErrorTests.ErrorAsync(response, HttpStatusCode.BadRequest)).GetProperty("param").GetString());
    }

    [Theory]
    [InlineData("../escape")]
    [InlineData("/etc/passwd")]
    [InlineData(".hidden")]
    [InlineData("")]
    [InlineData("a\\b")]
    public async Task AFileName_CantLeaveTheFolder(string name)
    {
        foreach (string action in (string[])["restore", "prefix-1/save"])
        {
            using HttpResponseMessage response = await _host.PostAsync($"{Path}/{action}", new JsonObject { ["filename"] = name }.ToJsonString());
            Assert.Equal("filename", (await ErrorTests.ErrorAsync(response, HttpStatusCode.BadRequest)).GetProperty("param").GetString());
        }
    }

    [Fact]
    public async Task ADamagedFile_Gets400_AndAMissingOne404()
    {
        await File.WriteAllTextAsync(System.IO.Path.Combine(_folder, "bad.kv"), "this is no prefix");
        using HttpResponseMessage bad = await _host.PostAsync($"{Path}/restore", """{"filename":"bad.kv"}""");
        string message = (await ErrorTests.ErrorAsync(bad, HttpStatusCode.BadRequest)).GetProperty("message").GetString()!;
        Assert.Contains("bad.kv", message, StringComparison.Ordinal);
        Assert.DoesNotContain(_folder, message, StringComparison.Ordinal);
        using HttpResponseMessage missing = await _host.PostAsync($"{Path}/restore", """{"filename":"none.kv"}""");
        await ErrorTests.ErrorAsync(missing, HttpStatusCode.NotFound);
        using HttpResponseMessage unknown = await _host.PostAsync($"{Path}/prefix-1/save", """{"filename":"x.kv"}""");
        await ErrorTests.ErrorAsync(unknown, HttpStatusCode.NotFound);
    }

    private async Task<int> CachedAsync() =>
        (await _host.AskAsync("/v1/completions", new JsonObject { ["prompt"] = Text + " What is 2 + 2?", ["max_tokens"] = 1 }))
            .GetProperty("usage").GetProperty("prompt_tokens_details").GetProperty("cached_tokens").GetInt32();
}
