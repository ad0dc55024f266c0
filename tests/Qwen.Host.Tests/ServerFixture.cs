using System.ClientModel;
using System.Net;
using Microsoft.AspNetCore.Builder;
using OpenAI;
using Qwen.Host.Http;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Tests;

/// <summary>The server on a free port of this machine, over the demo model.</summary>
public sealed class ServerFixture : IAsyncLifetime
{
    private WebApplication? _server;

    public QwenEngine Engine { get; private set; } = null!;

    public HttpClient Http { get; private set; } = null!;

    public OpenAIClient OpenAI { get; private set; } = null!;

    public async Task InitializeAsync()
    {
        Engine = await QwenEngine.LoadAsync();
        _server = QwenServer.Create(Engine, new ServerOptions { ModelName = "demo", Endpoint = new IPEndPoint(IPAddress.Loopback, 0), MaxRequestBytes = 100_000 });
        await _server.StartAsync();
        Http = new HttpClient { BaseAddress = new Uri(_server.Urls.Single()) };
        OpenAI = new OpenAIClient(new ApiKeyCredential("none"), new OpenAIClientOptions { Endpoint = new Uri(Http.BaseAddress, "/v1") });
    }

    public async Task DisposeAsync()
    {
        Http.Dispose();
        await _server!.DisposeAsync();
        await Engine.DisposeAsync();
    }
}
