using System.Text.Json;
using Microsoft.AspNetCore.Routing;

namespace Qwen.Host.Tests.Http;

[Collection(DemoEngine.Collection)]
public sealed class OpenApiDocumentTests(DemoEngine demo)
{
    [Fact]
    public async Task Document_HasEveryRouteOfTheApi_AndNoOther()
    {
        await using TestHost host = await TestHost.StartAsync(demo.Engine);
        JsonElement document = JsonElement.Parse(await host.Client.GetStringAsync("/openapi.json"));
        Assert.StartsWith("3.1", document.GetProperty("openapi").GetString(), StringComparison.Ordinal);

        SortedSet<string> described = [.. document.GetProperty("paths").EnumerateObject().SelectMany(path => path.Value.EnumerateObject().Select(method => $"{method.Name.ToUpperInvariant()} {path.Name}"))];
        SortedSet<string> served = [.. host.Routes
            .Where(r => r.Metadata.GetMetadata<HttpMethodMetadata>() is not null && r.RoutePattern.RawText is { } text && !text.Contains('.', StringComparison.Ordinal) && text != "/" || r.RoutePattern.RawText == "/openapi.json")
            .SelectMany(r => r.Metadata.GetMetadata<HttpMethodMetadata>()!.HttpMethods.Select(method => $"{method} {r.RoutePattern.RawText!.Replace("{**", "{", StringComparison.Ordinal)}"))];
        served.RemoveWhere(route => route.Contains("unimplemented", StringComparison.OrdinalIgnoreCase)); // gRPC's, of its services
        Assert.Equal(served, described);
    }

    [Fact]
    public async Task Document_RefersOnlyToWhatItHas()
    {
        await using TestHost host = await TestHost.StartAsync(demo.Engine);
        string text = await host.Client.GetStringAsync("/openapi.json");
        JsonElement root = JsonElement.Parse(text);
        foreach (System.Text.RegularExpressions.Match reference in System.Text.RegularExpressions.Regex.Matches(text, "\"#/([^\"]+)\""))
        {
            JsonElement at = root;
            foreach (string part in reference.Groups[1].Value.Split('/'))
                Assert.True(at.TryGetProperty(part, out at), reference.Value);
        }
    }
}
