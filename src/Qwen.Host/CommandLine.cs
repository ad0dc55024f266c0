using System.CommandLine;
using System.CommandLine.Parsing;
using Qwen.Host.Commands;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Templates;

namespace Qwen.Host;

/// <summary>Where a command reads and writes.</summary>
/// <param name="Input">Standard input.</param>
/// <param name="Output">Results.</param>
/// <param name="Error">Progress and errors.</param>
internal sealed record Streams(TextReader Input, TextWriter Output, TextWriter Error);

/// <summary>The program <c>qwen</c>: parses the command line, runs a command, and turns errors into one line and an exit code.</summary>
public static class CommandLine
{
    /// <summary>Exit code of a mistake in the flags, the files or the request.</summary>
    public const int UserError = 2;

    /// <summary>Exit code of a mistake of ours.</summary>
    public const int InternalError = 70;

    /// <summary>Runs a command.</summary>
    /// <returns>0, <see cref="UserError"/>, <see cref="InternalError"/>, or 130 when it was interrupted.</returns>
    public static async Task<int> RunAsync(string[] args, TextReader input, TextWriter output, TextWriter error)
    {
        var streams = new Streams(input, output, error);
        var root = new RootCommand("Runs Qwen language models on this machine.")
        {
            RunCommand.Create(streams),
            ChatCommand.Create(streams),
            ServeCommand.Create(streams),
            InspectCommand.Create(streams),
            TokenizeCommand.Create(streams),
            LogitsCommand.Create(streams),
            RenderCommand.Create(streams),
            BenchCommand.Create(streams),
        };
        ParseResult parsed = root.Parse(args);
        if (parsed.Errors.Count > 0)
        {
            ParseError first = parsed.Errors[0];
            string command = parsed.CommandResult.Command is RootCommand ? "qwen" : $"qwen {parsed.CommandResult.Command.Name}";
            await error.WriteLineAsync($"{command}: {Plain(first.Message)} See '{command} --help'.").ConfigureAwait(false);
            return UserError;
        }

        var configuration = new InvocationConfiguration { EnableDefaultExceptionHandler = false, Output = output, Error = error };
        try
        {
            return await parsed.InvokeAsync(configuration).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            return 130;
        }
        catch (Exception e) when (IsUserError(e))
        {
            await error.WriteLineAsync("qwen: " + e.Message.ReplaceLineEndings(" ")).ConfigureAwait(false);
            return UserError;
        }
#pragma warning disable CA1031 // The last stop: a bug is reported as such, with its trace where that is asked for.
        catch (Exception e)
#pragma warning restore CA1031
        {
            bool isDebug = Environment.GetEnvironmentVariable("QWEN_DEBUG") == "1";
            await error.WriteLineAsync($"qwen: internal error: {(isDebug ? e : e.Message)}{(isDebug ? "" : " (QWEN_DEBUG=1 shows where)")}").ConfigureAwait(false);
            return InternalError;
        }
    }

    // The parser names .NET's types, which say nothing to a user.
    private static string Plain(string message) =>
        message.ReplaceLineEndings(" ") is var line && line.IndexOf(" as expected type", StringComparison.Ordinal) is > 0 and int at ? line[..at] + "." : line;

    private static bool IsUserError(Exception e) =>
        e is ModelFormatException or TemplateException or ArgumentException or IOException or UnauthorizedAccessException or EngineOverloadedException or NonFiniteLogitException;
}
