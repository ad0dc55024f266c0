using System.CommandLine;
using System.Text;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

namespace Qwen.Host.Commands;

/// <summary><c>qwen chat</c>: a conversation at the terminal.</summary>
internal static class ChatCommand
{
    private const string Help = "/clear forgets the conversation, /system TEXT sets the system message, /exit ends. Ctrl-C stops an answer.";

    public static Command Create(Streams streams)
    {
        var system = new Option<string?>("--system") { Description = "A system message." };
        var model = new ModelOptions();
        var sampling = new SamplingFlags();
        var command = new Command("chat", "A conversation at the terminal.") { system };
        model.AddTo(command);
        sampling.AddTo(command);
        command.SetAction(async (parsed, cancellation) =>
        {
            QwenEngine engine = await model.LoadAsync(parsed, streams, (path, options, progress) => QwenEngine.LoadAsync(path, options, progress, cancellation)).ConfigureAwait(false);
            await using (engine.ConfigureAwait(false))
                await new Conversation(engine, streams, sampling.Read(parsed), parsed.GetValue(system)).RunAsync().ConfigureAwait(false);
            return 0;
        });
        return command;
    }

    private sealed class Conversation(QwenEngine engine, Streams streams, SamplingOptions sampling, string? system)
    {
        private readonly List<(string Role, string Content)> _turns = [];
        private string? _system = system;

        public async Task RunAsync()
        {
            await streams.Error.WriteLineAsync($"{engine.Model.Name} on {engine.Model.BackendName}. {Help}").ConfigureAwait(false);
            while (true)
            {
                await streams.Error.WriteAsync("> ").ConfigureAwait(false);
                string? line = await streams.Input.ReadLineAsync().ConfigureAwait(false);
                if (line is null || line.Trim() == "/exit")
                    return;
                await OneAsync(line.Trim()).ConfigureAwait(false);
            }
        }

        private async Task OneAsync(string line)
        {
            if (line == "/clear")
                _turns.Clear();
            else if (line.StartsWith("/system", StringComparison.Ordinal))
                _system = line["/system".Length..].Trim() is { Length: > 0 } text ? text : null;
            else if (line == "/help" || line.StartsWith('/'))
                await streams.Error.WriteLineAsync(Help).ConfigureAwait(false);
            else if (line.Length > 0)
                await AnswerAsync(line).ConfigureAwait(false);
        }

        /// <summary>Streams an answer; Ctrl-C stops it and keeps what came.</summary>
        private async Task AnswerAsync(string message)
        {
            _turns.Add(("user", message));
            var answer = new StringBuilder();
            using var stop = new CancellationTokenSource();
            ConsoleCancelEventHandler onCancel = (_, e) =>
            {
                e.Cancel = true;
                stop.Cancel();
            };
            Console.CancelKeyPress += onCancel;
            try
            {
                IEnumerable<(string, string)> messages = _system is null ? _turns : [("system", _system), .. _turns];
                await foreach (GenerationChunk chunk in engine.ChatAsync(ChatRequest.FromMessages(messages), sampling, stop.Token).ConfigureAwait(false))
                {
                    answer.Append(chunk.Text);
                    await streams.Output.WriteAsync(chunk.Text).ConfigureAwait(false);
                    await streams.Output.FlushAsync(CancellationToken.None).ConfigureAwait(false);
                }
            }
            catch (OperationCanceledException)
            {
                await streams.Output.WriteAsync(" [stopped]").ConfigureAwait(false);
            }
            catch (InvalidRequestException e)
            {
                // Too long, most likely: the turn is taken back, the conversation goes on.
                await streams.Error.WriteLineAsync(e.Message).ConfigureAwait(false);
                _turns.RemoveAt(_turns.Count - 1);
                return;
            }
            finally
            {
                Console.CancelKeyPress -= onCancel;
            }

            await streams.Output.WriteLineAsync().ConfigureAwait(false);
            _turns.Add(("assistant", answer.ToString()));
        }
    }
}
