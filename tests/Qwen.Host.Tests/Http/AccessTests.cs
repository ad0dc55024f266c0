using System.Net;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using System.Text.Json;
using Grpc.Core;
using Grpc.Net.Client;
using Qwen.Host.Http;
using Qwen.Host.Rpc;

namespace Qwen.Host.Tests.Http;

/// <summary>Who gets in: keys, web origins, TLS; and the id of a request.</summary>
[Collection(DemoEngine.Collection)]
public sealed class AccessTests(DemoEngine demo)
{
    private static readonly ServerOptions Locked = new() { ModelName = "demo", ApiKeys = ["first", "sécond"] };

    [Theory]
    [InlineData("Bearer first", HttpStatusCode.OK)]
    [InlineData("bearer first", HttpStatusCode.OK)]
    [InlineData("Bearer firs", HttpStatusCode.Unauthorized)]
    [InlineData("Bearer ", HttpStatusCode.Unauthorized)]
    [InlineData("Basic first", HttpStatusCode.Unauthorized)]
    [InlineData(null, HttpStatusCode.Unauthorized)]
    public async Task Key_LetsARequestIn(string? header, HttpStatusCode expected)
    {
        await using TestHost host = await TestHost.StartAsync(demo.Engine, Locked);
        using var request = new HttpRequestMessage(HttpMethod.Get, "/v1/models");
        if (header is not null)
            request.Headers.TryAddWithoutValidation("Authorization", header);
        using HttpResponseMessage response = await host.Client.SendAsync(request);
        if (expected == HttpStatusCode.OK)
        {
            Assert.Equal(expected, response.StatusCode);
            return;
        }

        JsonElement error = await ErrorTests.ErrorAsync(response, expected);
        Assert.Equal("invalid_api_key", error.GetProperty("code").GetString());
        Assert.Equal("authentication_error", error.GetProperty("type").GetString());
        Assert.Equal("Bearer", response.Headers.WwwAuthenticate.Single().Scheme);
    }

    [Theory]
    [InlineData("/", HttpStatusCode.OK)]
    [InlineData("/app.js", HttpStatusCode.OK)]
    [InlineData("/health", HttpStatusCode.OK)]
    [InlineData("/version", HttpStatusCode.OK)]
    [InlineData("/openapi.json", HttpStatusCode.Unauthorized)]
    [InlineData("/v1/models/demo", HttpStatusCode.Unauthorized)]
    public async Task WithoutAKey_OnlyProbesAndThePageAreServed(string path, HttpStatusCode expected)
    {
        await using TestHost host = await TestHost.StartAsync(demo.Engine, Locked);
        using HttpResponseMessage response = await host.Client.GetAsync(path);
        Assert.Equal(expected, response.StatusCode);
    }

    [Fact]
    public async Task Key_IsWantedOverGrpcToo()
    {
        await using TestHost host = await TestHost.ListenAsync(demo.Engine, Locked with { Endpoint = new IPEndPoint(IPAddress.Loopback, 0), RpcEndpoint = new IPEndPoint(IPAddress.Loopback, 0) });
        using var channel = GrpcChannel.ForAddress(host.Urls.Last());
        var client = new Inference.InferenceClient(channel);
        RpcException refused = await Assert.ThrowsAsync<RpcException>(async () => await client.ModelsAsync(new ModelsRequest()));
        Assert.Equal(StatusCode.Unauthenticated, refused.StatusCode);
        ModelsResponse models = await client.ModelsAsync(new ModelsRequest(), new Metadata { { "authorization", "Bearer first" } });
        Assert.Equal("demo", models.Models.Single().Id);
    }

    [Fact]
    public void KeyFile_HoldsAKeyALine()
    {
        string file = Path.GetTempFileName();
        try
        {
            File.WriteAllText(file, "# ours\n one \n\ntwo\n");
            Assert.Equal(["one", "two"], ApiKeys.ReadFile(file));
            File.WriteAllText(file, "# none\n");
            Assert.Contains(file, Assert.Throws<ArgumentException>(() => ApiKeys.ReadFile(file)).Message, StringComparison.Ordinal);
        }
        finally
        {
            File.Delete(file);
        }
    }

    [Theory]
    [InlineData("https://example.org", true)]
    [InlineData("https://evil.example", false)]
    public async Task Origin_IsAllowedOrNot(string origin, bool isAllowed)
    {
        await using TestHost host = await TestHost.StartAsync(demo.Engine, Locked with { AllowedOrigins = ["https://example.org"] });
        using var request = new HttpRequestMessage(HttpMethod.Options, "/v1/chat/completions");
        request.Headers.Add("Origin", origin);
        request.Headers.Add("Access-Control-Request-Method", "POST");
        request.Headers.Add("Access-Control-Request-Headers", "content-type,authorization");
        using HttpResponseMessage response = await host.Client.SendAsync(request);
        Assert.Equal(isAllowed, response.Headers.TryGetValues("Access-Control-Allow-Origin", out IEnumerable<string>? origins) && origins.Single() == origin);
    }

    [Theory]
    [InlineData("abc-123", true)]
    [InlineData("with space", false)]
    [InlineData("", false)]
    public async Task RequestId_ComesBack_OrANewOne(string id, bool isKept)
    {
        await using TestHost host = await TestHost.StartAsync(demo.Engine);
        using var request = new HttpRequestMessage(HttpMethod.Get, "/health");
        request.Headers.TryAddWithoutValidation("X-Request-Id", id);
        using HttpResponseMessage response = await host.Client.SendAsync(request);
        string given = response.Headers.GetValues("X-Request-Id").Single();
        Assert.Equal(isKept, given == id);
        Assert.NotEmpty(given);
    }

    [Fact]
    public async Task Certificate_MakesBothPortsTls()
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest("CN=localhost", key, HashAlgorithmName.SHA256);
        using X509Certificate2 made = request.CreateSelfSigned(DateTimeOffset.UtcNow.AddDays(-1), DateTimeOffset.UtcNow.AddDays(1));
        using X509Certificate2 certificate = X509CertificateLoader.LoadPkcs12(made.Export(X509ContentType.Pfx), null);
        await using TestHost host = await TestHost.ListenAsync(demo.Engine, new ServerOptions
        {
            ModelName = "demo",
            Endpoint = new IPEndPoint(IPAddress.Loopback, 0),
            RpcEndpoint = new IPEndPoint(IPAddress.Loopback, 0),
            Certificate = certificate,
        });
        Assert.All(host.Urls, url => Assert.StartsWith("https://", url, StringComparison.Ordinal));
        using var handler = new HttpClientHandler { ServerCertificateCustomValidationCallback = (_, seen, _, _) => seen!.Thumbprint == certificate.Thumbprint };
        using var client = new HttpClient(handler);
        Assert.Contains("demo", await client.GetStringAsync(new Uri(new Uri(host.Urls.First()), "/v1/models")), StringComparison.Ordinal);
        using var channel = GrpcChannel.ForAddress(host.Urls.Last(), new GrpcChannelOptions { HttpClient = client });
        Assert.Single((await new Inference.InferenceClient(channel).ModelsAsync(new ModelsRequest())).Models);
    }
}
