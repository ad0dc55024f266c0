using System.CommandLine;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Tokenization;

namespace Qwen.Host.Commands;

/// <summary><c>qwen run</c>: one prompt, one answer, and nothing but the answer on standard output.</summary>
internal static class RunCommand
{
    public static Command Create(Streams streams)
    {
        var prompt = new Argument<string[]>("prompt") { Description = "The message; - or nothing reads it from standard input.", Arity = ArgumentArity.ZeroOrMore };
        var system = new Option<string?>("--system") { Description = "A system message." };
        var raw = new Option<bool>("--raw") { Description = "Continues the prompt as it is, without the chat template; control tokens written out in it count." };
        // What looks like a flag and is none of ours would be taken for a part of the prompt.
        prompt.Validators.Add(result =>
        {
            if (result.Tokens.FirstOrDefault(t => t.Value.StartsWith("--", StringComparison.Ordinal)) is { } unknown)
                result.AddError($"'{unknown.Value}' is no flag of qwen run");
        });
        var model = new ModelOptions();
        var sampling = new SamplingFlags();
        var command = new Command("run", "Answers one prompt.") { prompt, system, raw };
        command.Validators.Add(result =>
        {
            if (result.GetValue(raw) && result.GetValue(system) is not null)
                result.AddError("--system has no place in a --raw prompt; write it into the prompt.");
        });
        model.AddTo(command);
        sampling.AddTo(command);
        command.SetAction(async (parsed, cancellation) =>
        {
            SamplingOptions options = sampling.Read(parsed);
            string text = await ReadPromptAsync(parsed.GetValue(prompt) ?? [], streams, cancellation).ConfigureAwait(false);
            QwenEngine engine = await model.LoadEngineAsync(parsed, streams, cancellation).ConfigureAwait(false);
            await using (engine.ConfigureAwait(false))
            {
                List<(string, string)> messages = parsed.GetValue(system) is { } instruction ? [("system", instruction), ("user", text)] : [("user", text)];
                IAsyncEnumerable<GenerationChunk> answer = parsed.GetValue(raw)
                    ? engine.GenerateAsync(text, options, AddedTokenParsing.All, cancellation)
                    : engine.ChatAsync(ChatRequest.FromMessages(messages), options, cancellation);
                await foreach (GenerationChunk chunk in answer.ConfigureAwait(false))
                    await streams.StreamAsync(chunk.Text).ConfigureAwait(false);
                await streams.Output.WriteLineAsync().ConfigureAwait(false);
            }

            return 0;
        });
        return command;
    }

    private static async Task<string> ReadPromptAsync(string[] words, Streams streams, CancellationToken cancellation)
    {
        if (words is not ([] or ["-"]))
            return string.Join(' ', words);
        if (!Console.IsInputRedirected && streams.Input == Console.In)
            await streams.NoteAsync("(the prompt, up to the end of input)\n").ConfigureAwait(false);
        string text = await streams.Input.ReadToEndAsync(cancellation).ConfigureAwait(false);
        // The line end that echo and editors put there is no part of the prompt.
        text = text.EndsWith("\r\n", StringComparison.Ordinal) ? text[..^2] : text.EndsWith('\n') ? text[..^1] : text;
        return text.Length > 0 ? text : throw new ArgumentException("There is no prompt; give it as an argument or on standard input.");
    }
}
