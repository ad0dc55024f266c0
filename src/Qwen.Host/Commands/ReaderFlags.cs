using System.CommandLine;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Commands;

/// <summary>The flags that say how long a server's engine waits: for readers, and for its own steps.</summary>
internal sealed class ReaderFlags
{
    private static readonly EngineOptions Defaults = new();

    private readonly Option<int> _unread = new("--max-unread-tokens") { Description = "Most tokens that wait for their reader; at that the request is paused.", DefaultValueFactory = _ => Defaults.MaxUnreadTokens };
    private readonly Option<double> _slow = new("--slow-reader-timeout") { Description = "Seconds that a request stays paused before it is cut.", DefaultValueFactory = _ => Defaults.SlowReaderTimeout.TotalSeconds };
    private readonly Option<double> _stuck = new("--stuck-after") { Description = "Seconds after which a step makes /health report the engine as stuck.", DefaultValueFactory = _ => Defaults.StuckAfter.TotalSeconds };

    public void AddTo(Command command)
    {
        foreach (Option option in (ReadOnlySpan<Option>)[_unread, _slow, _stuck])
            command.Options.Add(option);
    }

    /// <summary>What they make of an engine's options.</summary>
    /// <exception cref="ArgumentException">A time makes no sense.</exception>
    public Func<EngineOptions, EngineOptions> Read(ParseResult parsed)
    {
        TimeSpan slow = ModelOptions.Seconds("--slow-reader-timeout", parsed.GetValue(_slow)), stuck = ModelOptions.Seconds("--stuck-after", parsed.GetValue(_stuck));
        return options => options with { MaxUnreadTokens = parsed.GetValue(_unread), SlowReaderTimeout = slow, StuckAfter = stuck };
    }
}
