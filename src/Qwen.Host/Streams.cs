namespace Qwen.Host;

/// <summary>Where a command reads and writes.</summary>
/// <param name="Input">Standard input.</param>
/// <param name="Output">Results, and nothing else.</param>
/// <param name="Error">Errors; progress and notes only where a person is watching.</param>
/// <param name="IsWatched">A person is watching <paramref name="Error"/>: it is a terminal.</param>
internal sealed record Streams(TextReader Input, TextWriter Output, TextWriter Error, bool IsWatched)
{
    /// <summary>Tells a person something that is no result.</summary>
    public async Task NoteAsync(string text)
    {
        if (!IsWatched)
            return;
        await Error.WriteAsync(text).ConfigureAwait(false);
        await Error.FlushAsync().ConfigureAwait(false);
    }

    /// <summary>Writes the text of an answer as it comes.</summary>
    public async Task StreamAsync(string text)
    {
        await Output.WriteAsync(text).ConfigureAwait(false);
        await Output.FlushAsync().ConfigureAwait(false);
    }
}
