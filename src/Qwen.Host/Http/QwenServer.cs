using Qwen.Host.Rpc;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Http;

/// <summary>The web server: OpenAI's routes over one engine.</summary>
public static class QwenServer
{
    /// <summary>Builds a server that is yet to be started; the engine stays its owner's.</summary>
    /// <param name="engine">What answers.</param>
    /// <param name="options">Name, address and bounds.</param>
    /// <param name="configure">Further configuration, such as another transport.</param>
    public static WebApplication Create(QwenEngine engine, ServerOptions options, Action<WebApplicationBuilder>? configure = null)
    {
        WebApplicationBuilder builder = WebApplication.CreateSlimBuilder();
        builder.WebHost.ConfigureKestrel(kestrel =>
        {
            kestrel.Limits.MaxRequestBodySize = options.MaxRequestBytes;
            kestrel.Listen(options.Endpoint);
            kestrel.AddServerHeader = false;
        });
        builder.Logging.ClearProviders();
        builder.Logging.AddSimpleConsole(console =>
        {
            console.SingleLine = true;
            console.UseUtcTimestamp = true;
            console.TimestampFormat = "yyyy-MM-ddTHH:mm:ss.fffZ ";
        });
        builder.Logging.Services.Configure<Microsoft.Extensions.Logging.Console.ConsoleLoggerOptions>(console => console.LogToStandardErrorThreshold = LogLevel.Trace);
        builder.Logging.AddFilter("Microsoft", LogLevel.Warning);
        RpcServices.Add(builder, engine, options);
        configure?.Invoke(builder);

        WebApplication app = builder.Build();
        ILogger logger = app.Services.GetRequiredService<ILoggerFactory>().CreateLogger("Qwen.Host");
        app.Use((context, next) => RequestLog.InvokeAsync(context, next, logger));
        app.Use((context, next) => ErrorHandling.InvokeAsync(context, next, logger));
        app.UseRouting(); // here, so that the two steps above see its 404 and 405
        var responder = new Responder(engine, options.ModelName, logger);
        app.MapPost("/v1/chat/completions", context => ChatEndpoint.HandleAsync(context, responder));
        app.MapPost("/v1/completions", context => CompletionsEndpoint.HandleAsync(context, responder));
        ModelsEndpoint.Map(app, engine, options.ModelName);
        app.MapGet("/health", context => JsonResponse.WriteAsync(context, StatusCodes.Status200OK, json => json.WriteString("status", "ok")));
        WebPage.Map(app);
        RpcServices.Map(app);
        return app;
    }
}
