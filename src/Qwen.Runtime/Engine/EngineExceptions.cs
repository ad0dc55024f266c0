namespace Qwen.Runtime.Engine;

/// <summary>The request can't be served as it stands: its prompt is empty, too long, or holds ids outside the vocabulary.</summary>
/// <param name="message">What is wrong, with the numbers.</param>
public sealed class InvalidRequestException(string message) : ArgumentException(message);

/// <summary>The queue is full; try again later.</summary>
/// <param name="message">The bound that was hit.</param>
public sealed class EngineOverloadedException(string message) : InvalidOperationException(message);
