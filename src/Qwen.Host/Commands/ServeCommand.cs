using System.CommandLine;
using System.Net;
using System.Security.Cryptography.X509Certificates;
using Qwen.Host.Http;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Commands;

/// <summary><c>qwen serve</c>: OpenAI's API over HTTP, until SIGINT or SIGTERM.</summary>
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
        var model = new ModelOptions(hasEngine: true);
        var command = new Command("serve", "Serves OpenAI's API over HTTP.") { host, port, rpcPort, name, most, keys, keyFile, origins, certificate, certificateKey };
        model.AddTo(command);
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
            };
            QwenEngine engine = await model.LoadEngineAsync(parsed, streams, cancellation).ConfigureAwait(false);
            await using (engine.ConfigureAwait(false))
            {
                options = options with { ModelName = parsed.GetValue(name) ?? engine.Model.Name };
                WebApplication server = QwenServer.Create(engine, options);
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

    private static int Port(string option, int port) =>
        port is >= 0 and <= 65535 ? port : throw new ArgumentException($"{option}: {port} is not between 0 and 65535.");
}
