using System.Net;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Routing;
using Microsoft.AspNetCore.TestHost;
using Microsoft.Extensions.Logging;
using Qwen.Host.Http;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Tests.Http;

/// <summary>A server over an engine, in process or on a socket, and a client of it.</summary>
internal sealed class TestHost : IAsyncDisposable
{
    private readonly WebApplication _app;

    private TestHost(WebApplication app, HttpClient client)
    {
        _app = app;
        Client = client;
    }

    public HttpClient Client { get; }

    public Uri Address => Client.BaseAddress!;

    /// <summary>The addresses it listens on: HTTP's, then gRPC's.</summary>
    public ICollection<string> Urls => _app.Urls;

    /// <summary>Ends it as SIGTERM does after the drain: what runs is told so.</summary>
    public Task StopAsync() => _app.StopAsync();

    /// <summary>Its routes.</summary>
    public IEnumerable<RouteEndpoint> Routes => ((IEndpointRouteBuilder)_app).DataSources.SelectMany(s => s.Endpoints).OfType<RouteEndpoint>();

    public static async Task<TestHost> StartAsync(QwenEngine engine, ServerOptions? options = null)
    {
        WebApplication app = QwenServer.Create(engine, options ?? new ServerOptions { ModelName = "demo" }, builder =>
        {
            builder.WebHost.UseTestServer();
            builder.Logging.ClearProviders();
        });
        await app.StartAsync();
        return new TestHost(app, app.GetTestClient());
    }

    public static Task<TestHost> ListenAsync(QwenEngine engine, long maxRequestBytes = 1 << 20) =>
        ListenAsync(engine, new ServerOptions { ModelName = "demo", Endpoint = new IPEndPoint(IPAddress.Loopback, 0), MaxRequestBytes = maxRequestBytes });

    public static async Task<TestHost> ListenAsync(QwenEngine engine, ServerOptions options)
    {
        WebApplication app = QwenServer.Create(engine, options, builder => builder.Logging.ClearProviders());
        await app.StartAsync();
        return new TestHost(app, new HttpClient { BaseAddress = new Uri(app.Urls.First()) });
    }

    public Task<HttpResponseMessage> PostAsync(string path, string body) => Client.PostAsync(path, new StringContent(body, Encoding.UTF8, "application/json"));

    /// <summary>Posts what must succeed; the answer.</summary>
    public async Task<JsonElement> AskAsync(string path, JsonObject body)
    {
        using HttpResponseMessage response = await PostAsync(path, body.ToJsonString());
        string text = await response.Content.ReadAsStringAsync();
        Assert.True(response.StatusCode == HttpStatusCode.OK, text);
        Assert.Equal("application/json", response.Content.Headers.ContentType?.MediaType);
        return JsonElement.Parse(text);
    }

    /// <summary>Posts what must be streamed; the events, without the [DONE] that must be the last.</summary>
    public async Task<JsonElement[]> StreamAsync(string path, JsonObject body)
    {
        body["stream"] = true;
        using HttpResponseMessage response = await PostAsync(path, body.ToJsonString());
        Assert.Equal(HttpStatusCode.OK, response.StatusCode);
        Assert.Equal("text/event-stream", response.Content.Headers.ContentType?.MediaType);
        string[] events = (await response.Content.ReadAsStringAsync()).Split("\n\n");
        Assert.Equal("", events[^1]);
        Assert.Equal("data: [DONE]", events[^2]);
        return [.. events[..^2].Select(e =>
        {
            Assert.StartsWith("data: {", e, StringComparison.Ordinal);
            return JsonElement.Parse(e["data: ".Length..]);
        })];
    }

    /// <summary>Starts a stream of 50,000 tokens.</summary>
    public async Task<HttpResponseMessage> StartLongStreamAsync()
    {
        using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/completions")
        {
            Content = new StringContent("""{"prompt": "Tell me a story.", "max_tokens": 50000, "ignore_eos": true, "stream": true}""", Encoding.UTF8, "application/json"),
        };
        HttpResponseMessage response = await Client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead);
        response.EnsureSuccessStatusCode();
        return response;
    }

    public async ValueTask DisposeAsync()
    {
        Client.Dispose();
        await _app.DisposeAsync();
    }
}
