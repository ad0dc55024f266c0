namespace Qwen.Runtime.Sampling;

/// <summary>Finds stop texts in a stream of text, and holds back what may be the beginning of one.</summary>
/// <param name="stops">Not empty strings.</param>
/// <param name="includeStop">The stop text is part of the output.</param>
public sealed class StopMatcher(IReadOnlyList<string> stops, bool includeStop)
{
    private string _held = "";

    /// <summary>A stop text was found; everything after it is dropped.</summary>
    public bool IsStopped { get; private set; }

    /// <summary>Adds text and returns what can no longer be part of a stop text.</summary>
    public string Append(string text)
    {
        if (IsStopped)
            return "";
        if (stops.Count == 0)
            return text;
        string all = _held + text;
        int first = -1, end = 0;
        foreach (string stop in stops)
        {
            int at = all.IndexOf(stop, StringComparison.Ordinal);
            if (at < 0 || (first >= 0 && at >= first))
                continue;
            first = at;
            end = includeStop ? at + stop.Length : at;
        }

        if (first >= 0)
        {
            IsStopped = true;
            _held = "";
            return all[..end];
        }

        int keep = Held(all);
        _held = all[^keep..];
        return all[..^keep];
    }

    /// <summary>What was held back, at the end of the text.</summary>
    public string Flush()
    {
        string rest = _held;
        _held = "";
        return rest;
    }

    /// <summary>Length of the longest end of the text that begins a stop text.</summary>
    private int Held(ReadOnlySpan<char> text)
    {
        int longest = 0;
        foreach (string stop in stops)
        {
            for (int length = Math.Min(stop.Length - 1, text.Length); length > longest; length--)
            {
                if (text.EndsWith(stop.AsSpan(0, length), StringComparison.Ordinal))
                    longest = length;
            }
        }

        return longest;
    }
}
