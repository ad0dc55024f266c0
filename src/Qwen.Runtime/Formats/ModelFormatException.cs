namespace Qwen.Runtime.Formats;

/// <summary>A model file is damaged, or of a kind that is not supported. The message names the file, the field or tensor, and the value.</summary>
/// <param name="file">The file.</param>
/// <param name="message">What is wrong in it.</param>
public sealed class ModelFormatException(string file, string message) : Exception($"{file}: {message}")
{
    /// <summary>The file.</summary>
    public string File { get; } = file;
}
