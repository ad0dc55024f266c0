using System.CommandLine;
using System.CommandLine.Parsing;
using System.Text.RegularExpressions;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Tokenization;

namespace Qwen.Host.Commands;

/// <summary><c>qwen run</c>: one prompt, one answer, and nothing but the answer on standard output.</summary>
internal static partial class RunCommand
{
    public static Command Create(Streams streams)
    {
        var prompt = new Argument<string[]>("prompt") { Description = "The message; - or nothing reads it from standard input.", Arity = ArgumentArity.ZeroOrMore };
        var system = new Option<string?>("--system") { Description = "A system message." };
        var raw = new Option<bool>("--raw") { Description = "Continues the prompt as it is, without the chat template; control tokens written out in it count." };
        var model = new ModelOptions(hasEngine: true);
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
            CheckFlags(parsed, prompt);
            SamplingOptions options = sampling.Read(parsed);
            string text = await ReadPromptAsync(parsed.GetValue(prompt) ?? [], streams, cancellation).ConfigureAwait(false);
            QwenEngine engine = await model.LoadEngineAsync(parsed, streams, cancellation).ConfigureAwait(false);
            await using (engine.ConfigureAwait(false))
            {
                List<(string, string)> messages = parsed.GetValue(system) is { } instruction ? [("system", instruction), ("user", text)] : [("user", text)];
                IAsyncEnumerable<GenerationChunk> answer = parsed.GetValue(raw)
                    ? engine.GenerateAsync(text, options, parsing: AddedTokenParsing.All, cancellation: cancellation)
                    : engine.ChatAsync(ChatRequest.FromMessages(messages), options, cancellation: cancellation);
                await foreach (GenerationChunk chunk in answer.ConfigureAwait(false))
                    await streams.StreamAsync(chunk.Text).ConfigureAwait(false);
                await streams.Output.WriteLineAsync().ConfigureAwait(false);
            }

            return 0;
        });
        return command;
    }

    /// <summary>The parser takes a flag that it does not know for a word of the prompt; a user who wrote one did not mean that.</summary>
    private static void CheckFlags(ParseResult parsed, Argument prompt)
    {
        IEnumerable<Token> words = parsed.GetResult(prompt)?.Tokens ?? [];
        if (parsed.Tokens.TakeWhile(t => t.Type != TokenType.DoubleDash).Intersect(words).FirstOrDefault(t => Flag().IsMatch(t.Value)) is { } flag)
            throw new ArgumentException($"'{flag.Value}' is no command or flag of qwen run; write -- before a prompt that begins like one.");
    }

    [GeneratedRegex("^--?[A-Za-z][A-Za-z0-9-]*(=.*)?$", RegexOptions.Singleline)]
    private static partial Regex Flag();

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
