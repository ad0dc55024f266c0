using System.CommandLine;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Tokenization;

namespace Qwen.Host.Commands;

/// <summary><c>qwen run</c>: one prompt, one answer.</summary>
internal static class RunCommand
{
    public static Command Create(Streams streams)
    {
        var prompt = new Argument<string[]>("prompt") { Description = "The message; - or nothing reads standard input.", Arity = ArgumentArity.ZeroOrMore };
        // What looks like a flag and is none of ours would be taken for a part of the prompt.
        prompt.Validators.Add(result =>
        {
            if (result.Tokens.FirstOrDefault(t => t.Value.StartsWith("--", StringComparison.Ordinal)) is { } unknown)
                result.AddError($"Unrecognized option '{unknown.Value}'.");
        });
        var system = new Option<string?>("--system") { Description = "A system message." };
        var raw = new Option<bool>("--raw") { Description = "Continues the prompt as it is, without the chat template." };
        var model = new ModelOptions();
        var sampling = new SamplingFlags();
        var command = new Command("run", "Answers one prompt.") { prompt, system, raw };
        model.AddTo(command);
        sampling.AddTo(command);
        command.SetAction(async (parsed, cancellation) =>
        {
            string text = string.Join(' ', parsed.GetValue(prompt) ?? []);
            if (text is "" or "-")
                text = await streams.Input.ReadToEndAsync(cancellation).ConfigureAwait(false);
            QwenEngine engine = await model.LoadAsync(parsed, streams, (path, options, progress) => QwenEngine.LoadAsync(path, options, progress, cancellation)).ConfigureAwait(false);
            await using (engine.ConfigureAwait(false))
            {
                List<(string, string)> messages = parsed.GetValue(system) is { } instruction ? [("system", instruction), ("user", text)] : [("user", text)];
                IAsyncEnumerable<GenerationChunk> answer = parsed.GetValue(raw)
                    ? engine.GenerateAsync(text, sampling.Read(parsed), AddedTokenParsing.All, cancellation)
                    : engine.ChatAsync(ChatRequest.FromMessages(messages), sampling.Read(parsed), cancellation);
                await foreach (GenerationChunk chunk in answer.ConfigureAwait(false))
                {
                    await streams.Output.WriteAsync(chunk.Text).ConfigureAwait(false);
                    await streams.Output.FlushAsync(cancellation).ConfigureAwait(false);
                }

                await streams.Output.WriteLineAsync().ConfigureAwait(false);
            }

            return 0;
        });
        return command;
    }
}
