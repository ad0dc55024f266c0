using System.Reflection;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Qwen.Host.Metrics;
using Qwen.Host.Rpc;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Http;

/// <summary>The web server: OpenAI's routes over one engine.</summary>
public static class QwenServer
{
    /// <summary>Of this program.</summary>
    internal static string Version => typeof(QwenServer).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()!.InformationalVersion;

    // For answers that are cut when the server stops to be told so.
    private static readonly TimeSpan ShutdownTimeout = TimeSpan.FromSeconds(5);

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
            // The engine cuts the answer of a reader that stands still for so long; the connection goes with it.
            kestrel.Limits.MinResponseDataRate = new MinDataRate(1, Longer(engine.Model.Options.SlowReaderTimeout, TimeSpan.FromSeconds(2)));
            kestrel.Listen(options.Endpoint, listen => UseTls(listen, options));
            kestrel.AddServerHeader = false;
        });
        builder.Logging.ClearProviders();
        AddConsole(builder.Logging, options.LogAsJson);
        builder.Logging.Services.Configure<Microsoft.Extensions.Logging.Console.ConsoleLoggerOptions>(console => console.LogToStandardErrorThreshold = LogLevel.Trace);
        builder.Logging.AddFilter("Microsoft", LogLevel.Warning);
        builder.Services.Configure<HostOptions>(host => host.ShutdownTimeout = ShutdownTimeout);
        var metrics = new HostMetrics(engine, options.MemoryBandwidth);
        var exporter = new PrometheusExporter([engine.Meter, metrics.Meter], ("model_name", options.ModelName));
        builder.Services.AddSingleton(_ => metrics).AddSingleton(_ => exporter); // by a factory, so that the host disposes them
        if (options.OtlpEndpoint is { } collector)
            Telemetry.Add(builder.Services, engine, collector);
        RpcServices.Add(builder, engine, options);
        if (options.AllowedOrigins.Count > 0)
            builder.Services.AddCors(cors => cors.AddDefaultPolicy(policy => policy.WithOrigins([.. options.AllowedOrigins]).AllowAnyHeader().AllowAnyMethod().WithExposedHeaders(RequestId.Header)));
        configure?.Invoke(builder);

        WebApplication app = builder.Build();
        ILogger logger = app.Services.GetRequiredService<ILoggerFactory>().CreateLogger("Qwen.Host");
        app.Use((context, next) => RequestId.InvokeAsync(context, next));
        app.Use((context, next) => RequestLog.InvokeAsync(context, next, logger));
        app.Use((context, next) => ErrorHandling.InvokeAsync(context, next, logger));
        app.UseRouting(); // here, so that the two steps above see its 404 and 405
        if (options.AllowedOrigins.Count > 0)
            app.UseCors();
        if (options.ApiKeys.Count > 0)
        {
            var keys = new ApiKeys(options.ApiKeys);
            app.Use((context, next) => keys.InvokeAsync(context, next));
        }

        var responder = new Responder(engine, options, logger, app.Lifetime.ApplicationStopping);
        app.MapPost("/v1/chat/completions", context => ChatEndpoint.HandleAsync(context, responder));
        app.MapPost("/v1/completions", context => CompletionsEndpoint.HandleAsync(context, responder));
        TokenizeEndpoints.Map(app, responder);
        ModelsEndpoint.Map(app, engine, options.ModelName);
        PrefixEndpoints.Map(app, responder, options.PrefixDirectory);
        HealthEndpoints.Map(app, engine);
        MetricsEndpoint.Map(app);
        app.MapGet("/version", context => JsonResponse.WriteAsync(context, StatusCodes.Status200OK, json => json.WriteString("version", Version)));
        OpenApiDocument.Map(app);
        WebPage.Map(app);
        RpcServices.Map(app);
        return app;
    }

    private static void AddConsole(ILoggingBuilder logging, bool asJson)
    {
        const string Time = "yyyy-MM-ddTHH:mm:ss.fffZ";
        if (asJson)
        {
            logging.AddJsonConsole(console =>
            {
                console.UseUtcTimestamp = true;
                console.TimestampFormat = Time;
            });
            return;
        }

        logging.AddSimpleConsole(console =>
        {
            console.SingleLine = true;
            console.UseUtcTimestamp = true;
            console.TimestampFormat = Time + " ";
        });
    }

    private static TimeSpan Longer(TimeSpan a, TimeSpan b) => a > b ? a : b;

    /// <summary>TLS on a port, where there is a certificate.</summary>
    internal static void UseTls(ListenOptions listen, ServerOptions options)
    {
        if (options.Certificate is { } certificate)
            listen.UseHttps(certificate);
    }
}
