using System.CommandLine;
using Qwen.Host.Commands;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Templates;

namespace Qwen.Host;

/// <summary>The program <c>qwen</c>: parses the command line, runs a command, and turns errors into one line and an exit code.</summary>
internal static class CommandLine
{
    /// <summary>Exit code of a mistake in the flags, the files or the request.</summary>
    public const int UserError = 2;

    /// <summary>Exit code of a mistake of ours.</summary>
    public const int InternalError = 70;

    /// <summary>Runs a command.</summary>
    /// <param name="args">The arguments.</param>
    /// <param name="streams">Where it reads and writes.</param>
    /// <param name="cancellation">Ends it, as far as it can be ended.</param>
    /// <returns>0, <see cref="UserError"/> or <see cref="InternalError"/>.</returns>
    public static async Task<int> RunAsync(string[] args, Streams streams, CancellationToken cancellation = default)
    {
        var verbose = new Option<bool>("--verbose") { Description = "Shows where an internal error came from.", Recursive = true };
        var root = new RootCommand("Runs Qwen language models on this machine.")
        {
            verbose,
            RunCommand.Create(streams),
            ChatCommand.Create(streams),
            ServeCommand.Create(streams),
            InspectCommand.Create(streams),
            TokenizeCommand.Create(streams),
            LogitsCommand.Create(streams),
            RenderCommand.Create(streams),
            BenchCommand.Create(streams),
        };
        // A prompt may begin with @: no response files.
        ParseResult parsed = root.Parse(args, new ParserConfiguration { ResponseFileTokenReplacer = null });
        if (parsed.Errors.Count > 0)
        {
            string command = parsed.CommandResult.Command is RootCommand ? "qwen" : $"qwen {parsed.CommandResult.Command.Name}";
            string what = parsed.UnmatchedTokens is [var token, ..] ? $"'{token}' is no command or flag of {command}" : Plain(parsed.Errors[0].Message);
            await streams.Error.WriteLineAsync($"qwen: {what}; '{command} --help' shows what there is.").ConfigureAwait(false);
            return UserError;
        }

        // Signals are left to the system, to the server's drain (serve) and to the conversation (chat).
        var configuration = new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = null, Output = streams.Output, Error = streams.Error };
        try
        {
            return await parsed.InvokeAsync(configuration, cancellation).ConfigureAwait(false);
        }
        catch (Exception e) when (IsUserError(e))
        {
            await streams.Error.WriteLineAsync($"qwen: {OneLine(e.Message)}").ConfigureAwait(false);
            return UserError;
        }
#pragma warning disable CA1031 // The last stop: a bug is reported as such, with its trace where that is asked for.
        catch (Exception e) when (!cancellation.IsCancellationRequested)
#pragma warning restore CA1031
        {
            bool showTrace = parsed.GetValue(verbose) || Environment.GetEnvironmentVariable("QWEN_DEBUG") == "1";
            await streams.Error.WriteLineAsync($"qwen: internal error: {(showTrace ? e : OneLine(e.Message) + "; --verbose shows where")}").ConfigureAwait(false);
            return InternalError;
        }
    }

    /// <summary>The user can mend it; all else is a mistake of ours.</summary>
    /// <remarks>Of the argument exceptions, only those that are thrown for what came from outside: their kin mean that we called something wrongly.</remarks>
    public static bool IsUserError(Exception e) =>
        e is ModelFormatException or TemplateException or InvalidRequestException or EngineOverloadedException or NonFiniteLogitException
            or IOException or UnauthorizedAccessException or OutOfMemoryException
        || e.GetType() == typeof(ArgumentException);

    private static string OneLine(string message) => message.ReplaceLineEndings(" ");

    // The parser names .NET's types, which say nothing to a user.
    private static string Plain(string message)
    {
        string line = OneLine(message);
        int at = line.IndexOf(" as expected type", StringComparison.Ordinal);
        return (at > 0 ? line[..at] : line).TrimEnd('.');
    }
}
