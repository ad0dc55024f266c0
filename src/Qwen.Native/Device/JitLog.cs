using System.Text;
using System.Text.RegularExpressions;

namespace Qwen.Native.Device;

/// <summary>The PTX compiler's complaints, with the lines of PTX that they are about.</summary>
internal static partial class JitLog
{
    private const int MostLines = 8;

    /// <summary>Such as <c>ptxas application ptx input, line 12; error : Unknown symbol 'x'</c>, and below it line 12.</summary>
    public static string Explain(string log, string ptx)
    {
        string[] lines = ptx.Split('\n');
        var text = new StringBuilder();
        int quoted = 0;
        foreach (string complaint in log.Split('\n', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries))
        {
            text.Append('\n').Append(complaint);
            if (LineNumber().Match(complaint) is { Success: true } match && int.Parse(match.Groups[1].Value) is int number && number > 0 && number <= lines.Length && quoted++ < MostLines)
                text.Append($"\n    {number}: {lines[number - 1].Trim()}");
        }

        return text.ToString();
    }

    [GeneratedRegex(@"\bline (\d{1,9})\b")]
    private static partial Regex LineNumber();
}
