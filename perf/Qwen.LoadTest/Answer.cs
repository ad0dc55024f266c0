namespace Qwen.LoadTest;

/// <summary>What came of a request.</summary>
internal enum Outcome
{
    Completed,

    /// <summary>The client ended it, as it meant to.</summary>
    Abandoned,

    /// <summary>400, as it had to be.</summary>
    Refused,

    /// <summary>429: the queue was full.</summary>
    Overloaded,

    /// <summary>Anything else.</summary>
    Failed,
}

/// <summary>A request's answer and its times, in seconds.</summary>
internal sealed record Answer(Outcome Outcome)
{
    public List<int> Tokens { get; } = [];

    /// <summary>From sending to the first token.</summary>
    public double FirstToken { get; set; }

    /// <summary>From each token to the next.</summary>
    public List<double> Gaps { get; } = [];

    /// <summary>When each token came, in ticks of Stopwatch.</summary>
    public List<long> TokenTimes { get; } = [];

    /// <summary>From sending to the end.</summary>
    public double Total { get; set; }

    public int PromptTokens { get; set; }

    public int CachedTokens { get; set; }

    public string? FinishReason { get; set; }

    /// <summary>What went wrong.</summary>
    public string? Error { get; init; }
}
