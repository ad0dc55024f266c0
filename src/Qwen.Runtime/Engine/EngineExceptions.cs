namespace Qwen.Runtime.Engine;

/// <summary>The request can't be served as it stands: its prompt is empty, too long, or holds ids outside the vocabulary.</summary>
/// <param name="message">What is wrong, with the numbers.</param>
public sealed class InvalidRequestException(string message) : ArgumentException(message);

/// <summary>The queue is full; try again later.</summary>
/// <param name="message">The bound that was hit.</param>
/// <param name="retryAfter">When a place in the queue may be free: about as long as requests have lately taken to end, one after the other.</param>
public sealed class EngineOverloadedException(string message, TimeSpan retryAfter) : InvalidOperationException(message)
{
    /// <summary>When to try again.</summary>
    public TimeSpan RetryAfter { get; } = retryAfter;
}

/// <summary>The engine takes no requests: it is being drained, or has failed.</summary>
/// <param name="message">Which of the two.</param>
/// <param name="error">What it failed by.</param>
public sealed class EngineUnavailableException(string message, Exception? error = null) : InvalidOperationException(message, error);

/// <summary>The answer was not complete by the request's <see cref="RequestOptions.Timeout"/>.</summary>
/// <param name="message">How far it came.</param>
public sealed class RequestTimeoutException(string message) : TimeoutException(message);

/// <summary>The answer was cut: its reader had not read for longer than <see cref="EngineOptions.SlowReaderTimeout"/>.</summary>
/// <param name="message">How much was left unread.</param>
public sealed class SlowReaderException(string message) : TimeoutException(message);
