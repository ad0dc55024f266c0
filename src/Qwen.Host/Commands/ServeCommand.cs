using System.CommandLine;
using System.Net;
using Qwen.Host.Http;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Commands;

/// <summary><c>qwen serve</c>: OpenAI's API over HTTP.</summary>
internal static class ServeCommand
{
    public static Command Create(Streams streams)
    {
        var host = new Option<string>("--host") { Description = "Address to listen on.", DefaultValueFactory = _ => "127.0.0.1" };
        var port = new Option<int>("--port") { Description = "Port to listen on; 0 for any free one.", DefaultValueFactory = _ => 8000 };
        var name = new Option<string?>("--served-model-name") { Description = "The model's name in the API; the file's or directory's if not given." };
        var most = new Option<long>("--max-request-bytes") { Description = "Longest request body.", DefaultValueFactory = _ => 32L << 20 };
        var model = new ModelOptions();
        var command = new Command("serve", "Serves OpenAI's API over HTTP.") { host, port, name, most };
        model.AddTo(command);
        command.SetAction(async (parsed, cancellation) =>
        {
            if (!IPAddress.TryParse(parsed.GetValue(host) == "localhost" ? "127.0.0.1" : parsed.GetValue(host), out IPAddress? address))
                throw new ArgumentException($"--host: '{parsed.GetValue(host)}' is no IP address.");
            if (parsed.GetValue(port) is < 0 or > 65535)
                throw new ArgumentException($"--port: {parsed.GetValue(port)} is not between 0 and 65535.");
            QwenEngine engine = await model.LoadAsync(parsed, streams, (path, options, progress) => QwenEngine.LoadAsync(path, options, progress, cancellation)).ConfigureAwait(false);
            await using (engine.ConfigureAwait(false))
            {
                var settings = new ServerSettings(parsed.GetValue(name) ?? engine.Model.Name, parsed.GetValue(most));
                WebApplication server = QwenServer.Create(engine, settings, new IPEndPoint(address, parsed.GetValue(port)));
                await using (server.ConfigureAwait(false))
                {
                    await server.StartAsync(cancellation).ConfigureAwait(false);
                    await streams.Error.WriteLineAsync($"{settings.ModelName} on {engine.Model.BackendName}: {string.Join(", ", server.Urls)}").ConfigureAwait(false);
                    await server.WaitForShutdownAsync(cancellation).ConfigureAwait(false);
                }
            }

            return 0;
        });
        return command;
    }
}
