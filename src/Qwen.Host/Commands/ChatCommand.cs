using System.CommandLine;
using System.Text;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Templates;

namespace Qwen.Host.Commands;

/// <summary><c>qwen chat</c>: a conversation at the terminal. Ctrl-C stops an answer; at the prompt it ends the program.</summary>
internal static class ChatCommand
{
    private const string Help = "/clear forgets the conversation, /system TEXT sets the system message, /help, /exit. Ctrl-C stops an answer.\n";

    public static Command Create(Streams streams)
    {
        var system = new Option<string?>("--system") { Description = "A system message." };
        var model = new ModelOptions(hasEngine: true);
        var sampling = new SamplingFlags();
        var command = new Command("chat", "A conversation at the terminal.") { system };
        model.AddTo(command);
        sampling.AddTo(command);
        command.SetAction(async (parsed, cancellation) =>
        {
            SamplingOptions options = sampling.Read(parsed);
            QwenEngine engine = await model.LoadEngineAsync(parsed, streams, cancellation).ConfigureAwait(false);
            await using (engine.ConfigureAwait(false))
                await new Conversation(engine, streams, options, parsed.GetValue(system)).RunAsync().ConfigureAwait(false);
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
            await streams.NoteAsync($"{engine.Model.Name} on {engine.Model.BackendName}. {Help}").ConfigureAwait(false);
            while (true)
            {
                await streams.NoteAsync("> ").ConfigureAwait(false);
                string? line = (await streams.Input.ReadLineAsync().ConfigureAwait(false))?.Trim();
                if (line is null or "/exit")
                    return;
                if (line.Length > 0)
                    await (line[0] == '/' ? ObeyAsync(line) : AnswerAsync(line)).ConfigureAwait(false);
            }
        }

        private async Task ObeyAsync(string line)
        {
            string[] words = line.Split((char[]?)null, 2, StringSplitOptions.RemoveEmptyEntries);
            switch (words[0])
            {
                case "/clear":
                    _turns.Clear();
                    break;
                case "/system":
                    _system = words.Length > 1 ? words[1] : null;
                    break;
                default:
                    await streams.Error.WriteAsync(words[0] == "/help" ? Help : $"There is no {words[0]}. {Help}").ConfigureAwait(false);
                    break;
            }
        }

        /// <summary>Streams an answer; Ctrl-C stops it, and what came of it stays in the conversation.</summary>
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
                await foreach (GenerationChunk chunk in engine.ChatAsync(ChatRequest.FromMessages(messages), sampling, cancellation: stop.Token).ConfigureAwait(false))
                {
                    answer.Append(chunk.Text);
                    await streams.StreamAsync(chunk.Text).ConfigureAwait(false);
                }
            }
            catch (OperationCanceledException)
            {
                await streams.NoteAsync(" [stopped]").ConfigureAwait(false);
            }
            catch (Exception e) when (e is InvalidRequestException or TemplateException)
            {
                // The conversation has grown too long, most likely. The turn is taken back, and the conversation goes on.
                await streams.Error.WriteLineAsync($"{e.Message} (/clear starts anew.)").ConfigureAwait(false);
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
