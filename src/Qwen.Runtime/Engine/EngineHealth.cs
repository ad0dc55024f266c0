namespace Qwen.Runtime.Engine;

/// <summary>Whether an engine answers.</summary>
public enum EngineState
{
    /// <summary>It takes requests.</summary>
    Ready,

    /// <summary>It finishes what it has, and takes no more.</summary>
    Draining,

    /// <summary>A step has taken longer than <see cref="EngineOptions.StuckAfter"/>, and goes on.</summary>
    Stuck,

    /// <summary>Its last steps all threw: what computes may be lost. A step that succeeds makes it ready again.</summary>
    Failing,

    /// <summary>Its thread ended by an error. It won't come back.</summary>
    Failed,

    /// <summary>It was disposed.</summary>
    Stopped,
}

/// <summary>How an engine is.</summary>
/// <param name="State">Whether it answers.</param>
/// <param name="StepTime">How long the step that runs has taken so far; zero between steps.</param>
/// <param name="Error">What it failed by.</param>
public readonly record struct EngineHealth(EngineState State, TimeSpan StepTime, Exception? Error)
{
    /// <summary>New requests will be answered.</summary>
    public bool IsReady => State == EngineState.Ready;
}
