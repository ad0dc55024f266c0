using System.CommandLine;
using System.Net;
using System.Security.Cryptography.X509Certificates;
using Qwen.Host.Http;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Commands;

/// <summary><c>qwen serve</c>: OpenAI's API over HTTP, until SIGINT or SIGTERM (<see cref="DrainLifetime"/>).</summary>
internal static class ServeCommand
{
    public static Command Create(Streams streams)
    {
        var host = new Option<string>("--host") { Description = "The IP address to listen on; 0.0.0.0 and :: let other machines in.", DefaultValueFactory = _ => "127.0.0.1" };
        var port = new Option<int>("--port") { Description = "The port to listen on; 0 for any free one.", DefaultValueFactory = _ => 8000 };
        var rpcPort = new Option<int?>("--grpc-port") { Description = "The port to listen on for gRPC (HTTP/2 without TLS); 0 for any free one. Without it there is no gRPC." };
        var name = new Option<string?>("--served-model-name") { Description = "The model's name in the API; the file's or directory's if not given." };
        var most = new Option<string>("--max-request-bytes") { Description = "Longest request body, such as 32M.", DefaultValueFactory = _ => "32M" };
        var keys = new Option<string[]>("--api-key") { Description = "A key that requests must carry (Authorization: Bearer KEY); may be given more than once.", DefaultValueFactory = _ => [] };
        var keyFile = new Option<string?>("--api-key-file") { Description = "A file with such keys, one a line." };
        var origins = new Option<string[]>("--allowed-origins") { Description = "Web origins whose pages may use the server, such as https://example.org; * for all.", DefaultValueFactory = _ => [] };
        var certificate = new Option<string?>("--ssl-certfile") { Description = "A certificate (PEM), for TLS." };
        var certificateKey = new Option<string?>("--ssl-keyfile") { Description = "Its private key (PEM); the certificate's own file if not given." };
        var requestTimeout = new Option<double?>("--request-timeout") { Description = "Most seconds that a request may take, queue and answer together; as long as it takes if not given." };
        var drainTimeout = new Option<double>("--drain-timeout") { Description = "Seconds that running requests get to end after SIGTERM or SIGINT.", DefaultValueFactory = _ => 30 };
        var prefixes = new Option<string?>("--prefix-dir") { Description = "A folder for saved prefixes; without it they can't be saved." };
        var logFormat = new Option<string>("--log-format") { Description = "text, or json for an object a line.", DefaultValueFactory = _ => "text" };
        var otlp = new Option<string?>("--otlp-endpoint") { Description = "Where to send metrics and traces by OTLP, such as http://localhost:4317." };
        var roofline = new Option<bool>("--measure-bandwidth") { Description = "Measures the memory's bandwidth at the start, for the metric qwen:step_roofline_share." };
        var model = new ModelOptions(hasEngine: true);
        var readers = new ReaderFlags();
        var command = new Command("serve", "Serves OpenAI's API over HTTP.")
        {
            host, port, rpcPort, name, most, keys, keyFile, origins, certificate, certificateKey, requestTimeout, drainTimeout, prefixes, logFormat, otlp, roofline,
        };
        model.AddTo(command);
        readers.AddTo(command);
        command.SetAction(async (parsed, cancellation) =>
        {
            var endpoint = new IPEndPoint(Address(parsed.GetRequiredValue(host)), Port("--port", parsed.GetValue(port)));
            IPEndPoint? rpcEndpoint = parsed.GetValue(rpcPort) is { } number ? new IPEndPoint(endpoint.Address, Port("--grpc-port", number)) : null;
            long maxRequestBytes = ModelOptions.Bytes("--max-request-bytes", parsed.GetRequiredValue(most));
            using X509Certificate2? tls = parsed.GetValue(certificate) is { } file ? X509Certificate2.CreateFromPemFile(file, parsed.GetValue(certificateKey)) : null;
            var options = new ServerOptions
            {
                ModelName = "",
                Endpoint = endpoint,
                RpcEndpoint = rpcEndpoint,
                MaxRequestBytes = maxRequestBytes,
                ApiKeys = [.. parsed.GetRequiredValue(keys), .. parsed.GetValue(keyFile) is { } path ? ApiKeys.ReadFile(path) : []],
                AllowedOrigins = parsed.GetRequiredValue(origins),
                Certificate = tls,
                RequestTimeout = parsed.GetValue(requestTimeout) is { } bound ? ModelOptions.Seconds("--request-timeout", bound) : null,
                PrefixDirectory = parsed.GetValue(prefixes) is { } folder ? Directory.CreateDirectory(folder).FullName : null,
                LogAsJson = parsed.GetValue(logFormat) switch
                {
                    "text" => false,
                    "json" => true,
                    string other => throw new ArgumentException($"--log-format: '{other}' is not known; known are text, json."),
                    null => false,
                },
                OtlpEndpoint = parsed.GetValue(otlp) is { } collector ? Collector(collector) : null,
            };
            TimeSpan drain = ModelOptions.Seconds("--drain-timeout", parsed.GetValue(drainTimeout), canBeZero: true);
            QwenEngine engine = await model.LoadEngineAsync(parsed, streams, cancellation, readers.Read(parsed)).ConfigureAwait(false);
            await using (engine.ConfigureAwait(false))
            {
                options = options with
                {
                    ModelName = parsed.GetValue(name) ?? engine.Model.Name,
                    MemoryBandwidth = parsed.GetValue(roofline) ? engine.Model.MeasureReadBandwidth() : null, // before the first request: it takes the same threads
                };
                WebApplication server = QwenServer.Create(engine, options, builder => builder.Services.AddSingleton<IHostLifetime>(services =>
                    new DrainLifetime(engine, drain, services.GetRequiredService<IHostApplicationLifetime>(), streams.Error)));
                await using (server.ConfigureAwait(false))
                {
                    await server.StartAsync(cancellation).ConfigureAwait(false);
                    await streams.Error.WriteLineAsync($"{options.ModelName} on {engine.Model.BackendName}: {string.Join(", ", server.Urls)}").ConfigureAwait(false);
                    await server.WaitForShutdownAsync(cancellation).ConfigureAwait(false);
                }
            }

            return 0;
        });
        return command;
    }

    private static IPAddress Address(string host) =>
        host == "localhost" ? IPAddress.Loopback
        : IPAddress.TryParse(host, out IPAddress? address) ? address
        : throw new ArgumentException($"--host: '{host}' is not an IP address; give one, such as 127.0.0.1 or 0.0.0.0.");

    private static Uri Collector(string text) =>
        Uri.TryCreate(text, UriKind.Absolute, out Uri? uri) && uri!.Scheme is "http" or "https" ? uri : throw new ArgumentException($"--otlp-endpoint: '{text}' is no address; give one such as http://localhost:4317.");

    private static int Port(string option, int port) =>
        port is >= 0 and <= 65535 ? port : throw new ArgumentException($"{option}: {port} is not between 0 and 65535.");
}
