using System.Net;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.Logging;
using Microsoft.Playwright;
using Qwen.Host.Http;
using Qwen.Host.Tests.Http;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Tests.Web;

/// <summary>The chat page in a real Chromium.</summary>
[Collection(DemoEngine.Collection)]
public sealed class WebPageTests(DemoEngine demo) : IAsyncLifetime
{
    private static readonly string? Chromium = ((string[])["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]).FirstOrDefault(File.Exists);

    private readonly List<string> _errors = [];
    private WebApplication _app = null!;
    private IPlaywright? _playwright;
    private IBrowser? _browser;

    public async Task InitializeAsync()
    {
        _app = QwenServer.Create(demo.Engine, new ServerOptions { ModelName = "demo", Endpoint = new IPEndPoint(IPAddress.Loopback, 0) }, builder => builder.Logging.ClearProviders());
        await _app.StartAsync();
        if (Chromium is null)
            return;
        _playwright = await Playwright.CreateAsync();
        _browser = await _playwright.Chromium.LaunchAsync(new BrowserTypeLaunchOptions
        {
            ExecutablePath = Chromium,
            Args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
        });
    }

    public async Task DisposeAsync()
    {
        if (_browser is not null)
            await _browser.DisposeAsync();
        _playwright?.Dispose();
        await _app.DisposeAsync();
        await DemoEngine.WaitUntilIdleAsync(demo.Engine);
    }

    [SkippableFact]
    public async Task Send_StreamsTheAnswer_WhichIsThereAfterAReload()
    {
        IPage page = await OpenAsync();
        await SetAsync(page, "temperature", "0");
        await page.GetByLabel("Message").FillAsync(DemoEngine.Question);
        await page.Keyboard.PressAsync("Enter");
        ILocator answer = page.Locator("article.assistant");
        await Assertions.Expect(answer.Locator(".content")).ToHaveTextAsync("42");
        await Assertions.Expect(answer.Locator(".speed")).ToContainTextAsync("tokens");
        await Assertions.Expect(page.Locator("#model")).ToHaveTextAsync("demo");
        await Assertions.Expect(answer.GetByRole(AriaRole.Button, new LocatorGetByRoleOptions { Name = "Regenerate" })).ToBeVisibleAsync();

        await page.ReloadAsync();
        await Assertions.Expect(page.Locator("article.user .content")).ToHaveTextAsync(DemoEngine.Question);
        await Assertions.Expect(page.Locator("article.assistant .content")).ToHaveTextAsync("42");

        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { Name = "Regenerate" }).ClickAsync();
        await Assertions.Expect(page.Locator("article.assistant")).ToHaveCountAsync(1);
        await Assertions.Expect(page.Locator("article.assistant .content")).ToHaveTextAsync("42");

        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { Name = "New chat" }).ClickAsync();
        await Assertions.Expect(page.Locator("article")).ToHaveCountAsync(0);
        Assert.Empty(_errors);
    }

    [SkippableFact]
    public async Task Stop_EndsTheAnswer_AndFreesTheSequence()
    {
        await using QwenEngine engine = await QwenEngine.LoadAsync(options: new EngineOptions { MaxModelLength = 60_000 });
        await using TestHost host = await TestHost.ListenAsync(engine);
        IPage page = await OpenAsync(host.Address.ToString());
        await page.RouteAsync("**/v1/chat/completions", route => route.ContinueAsync(new RouteContinueOptions
        {
            PostData = System.Text.Encoding.UTF8.GetBytes(route.Request.PostData!.Replace("\"stream\":true", "\"stream\":true,\"ignore_eos\":true,\"max_tokens\":50000", StringComparison.Ordinal)),
        }));
        await page.GetByLabel("Message").FillAsync("Tell me a story.");
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { Name = "Send" }).ClickAsync();
        await Assertions.Expect(page.Locator("article.assistant .speed")).ToContainTextAsync("tokens");
        await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { Name = "Stop" }).ClickAsync();
        await Assertions.Expect(page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { Name = "Send" })).ToBeVisibleAsync();
        await Assertions.Expect(page.Locator("article.assistant .speed")).ToContainTextAsync("(stopped)");
        await DemoEngine.WaitUntilIdleAsync(engine);
        Assert.Empty(_errors);
    }

    [SkippableFact]
    public async Task AnswerWithMarkup_IsShownAndNeverRun()
    {
        const string Hostile = "# Title\n\n<img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>\n\n**bold** `<b>` [link](javascript:window.hacked=1) [good](https://example.com/)\n\n```html\n<script>window.hacked=1</script>\n```\n\n- one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n";
        IPage page = await OpenAsync();
        await page.RouteAsync("**/v1/chat/completions", route => route.FulfillAsync(new RouteFulfillOptions
        {
            ContentType = "text/event-stream",
            Body = $"data: {System.Text.Json.JsonSerializer.Serialize(new { choices = new[] { new { delta = new { content = Hostile } } } })}\n\ndata: [DONE]\n\n",
        }));
        await page.GetByLabel("Message").FillAsync("<b>hello</b>");
        await page.Keyboard.PressAsync("Enter");
        ILocator content = page.Locator("article.assistant .content");
        await Assertions.Expect(content.Locator("h3")).ToHaveTextAsync("Title");
        await Assertions.Expect(content).ToContainTextAsync("<img src=x onerror=");
        await Assertions.Expect(content.Locator("pre code")).ToHaveTextAsync("<script>window.hacked=1</script>");
        await Assertions.Expect(content.Locator("li")).ToHaveCountAsync(2);
        await Assertions.Expect(content.Locator("td")).ToHaveTextAsync(["1", "2"]);
        await Assertions.Expect(content.Locator("a")).ToHaveCountAsync(1); // the javascript: one stays text
        Assert.Equal(0, await content.Locator("img, script").CountAsync());
        await Assertions.Expect(page.Locator("article.user .content")).ToHaveTextAsync("<b>hello</b>");
        Assert.Null(await page.EvaluateAsync<int?>("window.hacked ?? null"));
        Assert.Empty(_errors);
    }

    [SkippableFact]
    public async Task Error_IsShownInWords()
    {
        IPage page = await OpenAsync();
        await SetAsync(page, "max_tokens", "0");
        await page.GetByLabel("Message").FillAsync("Hello");
        await page.Keyboard.PressAsync("Enter");
        await Assertions.Expect(page.Locator("article.failed .content")).ToContainTextAsync("max_tokens: 0 is not positive");
    }

    [Fact]
    public async Task Page_ForbidsEverythingButItself_AndIsNotSentTwice()
    {
        using var client = new HttpClient { BaseAddress = new Uri(_app.Urls.Single()) };
        using HttpResponseMessage first = await client.GetAsync("/");
        Assert.Equal("text/html", first.Content.Headers.ContentType!.MediaType);
        Assert.Contains("default-src 'none'", string.Join(';', first.Headers.GetValues("Content-Security-Policy")), StringComparison.Ordinal);
        using var again = new HttpRequestMessage(HttpMethod.Get, "/");
        again.Headers.IfNoneMatch.Add(first.Headers.ETag!);
        using HttpResponseMessage second = await client.SendAsync(again);
        Assert.Equal(HttpStatusCode.NotModified, second.StatusCode);
    }

    private async Task<IPage> OpenAsync(string? address = null)
    {
        Skip.If(_browser is null, "There is no Chromium on this machine (Debian: apt-get install chromium).");
        IPage page = await _browser!.NewPageAsync();
        page.PageError += (_, error) => _errors.Add(error);
        await page.GotoAsync(address ?? _app.Urls.Single());
        return page;
    }

    private static async Task SetAsync(IPage page, string name, string value)
    {
        if (await page.Locator("#settings").IsHiddenAsync())
            await page.GetByRole(AriaRole.Button, new PageGetByRoleOptions { Name = "Settings" }).ClickAsync();
        await page.Locator($"[name={name}]").FillAsync(value);
    }
}
