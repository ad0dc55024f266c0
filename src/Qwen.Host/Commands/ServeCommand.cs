using System.CommandLine;
using System.Net;
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
        var model = new ModelOptions();
        var command = new Command("serve", "Serves OpenAI's API over HTTP.") { host, port, rpcPort, name, most };
        model.AddTo(command);
        command.SetAction(async (parsed, cancellation) =>
        {
            var endpoint = new IPEndPoint(Address(parsed.GetRequiredValue(host)), Port("--port", parsed.GetValue(port)));
            IPEndPoint? rpcEndpoint = parsed.GetValue(rpcPort) is { } number ? new IPEndPoint(endpoint.Address, Port("--grpc-port", number)) : null;
            long maxRequestBytes = ModelOptions.Bytes("--max-request-bytes", parsed.GetRequiredValue(most));
            QwenEngine engine = await model.LoadEngineAsync(parsed, streams, cancellation).ConfigureAwait(false);
            await using (engine.ConfigureAwait(false))
            {
                var options = new ServerOptions { ModelName = parsed.GetValue(name) ?? engine.Model.Name, Endpoint = endpoint, RpcEndpoint = rpcEndpoint, MaxRequestBytes = maxRequestBytes };
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
