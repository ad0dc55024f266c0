using System.Runtime.InteropServices;
using System.Text;

namespace Qwen.Runtime.Tokenization;

/// <summary>
/// Unicode's canonical composition, NFC (Unicode Standard Annex 15). The runtime's own needs the ICU library, which a machine with
/// only .NET may lack: with InvariantGlobalization it returns its input.
/// </summary>
internal static class Normalization
{
    private const int FirstAffected = 0x300; // every text below is in NFC
    private const int SBase = 0xac00, LBase = 0x1100, VBase = 0x1161, TBase = 0x11a7, LCount = 19, VCount = 21, TCount = 28, SCount = LCount * VCount * TCount;

    private static readonly Dictionary<int, (int First, int Second)> Decompositions = [];
    private static readonly Dictionary<(int First, int Second), int> Compositions = [];
    private static readonly Dictionary<int, byte> Classes = [];
    private static readonly HashSet<int> Affected = []; // may be changed, or change what is before them

    static Normalization()
    {
        ReadOnlySpan<int> decompositions = NormalizationData.Decompositions;
        for (int i = 0; i < decompositions.Length; i += 4)
        {
            (int composed, int first, int second) = (decompositions[i], decompositions[i + 1], decompositions[i + 2]);
            Decompositions[composed] = (first, second);
            if (decompositions[i + 3] == 1)
                Compositions[(first, second)] = composed;
            else
                Affected.Add(composed);
            if (second != 0)
                Affected.Add(second);
        }

        ReadOnlySpan<int> classes = NormalizationData.CombiningClasses;
        for (int i = 0; i < classes.Length; i += 3)
        {
            for (int c = classes[i]; c <= classes[i + 1]; c++)
            {
                Classes[c] = (byte)classes[i + 2];
                Affected.Add(c);
            }
        }

        for (int v = 0; v < VCount; v++)
            Affected.Add(VBase + v);
        for (int t = 1; t < TCount; t++)
            Affected.Add(TBase + t);
    }

    /// <summary>False only if the text is in NFC. Lone surrogates are left to the encoder.</summary>
    public static bool MayChange(ReadOnlySpan<char> text)
    {
        int first = text.IndexOfAnyExceptInRange('\0', (char)(FirstAffected - 1));
        if (first < 0)
            return false;
        foreach (Rune rune in text[first..].EnumerateRunes())
        {
            if (rune.Value >= FirstAffected && Affected.Contains(rune.Value))
                return true;
        }

        return false;
    }

    /// <summary>The text in NFC.</summary>
    public static string ToNfc(string text)
    {
        var points = new List<int>(text.Length + 16);
        foreach (Rune rune in text.EnumerateRunes())
            Decompose(rune.Value, points);
        Order(CollectionsMarshal.AsSpan(points));
        Compose(points);
        var result = new StringBuilder(points.Count);
        foreach (int point in points)
            result.Append(new Rune(point).ToString());
        return result.ToString();
    }

    private static void Decompose(int point, List<int> points)
    {
        int syllable = point - SBase;
        if (syllable is >= 0 and < SCount)
        {
            points.Add(LBase + (syllable / (VCount * TCount)));
            points.Add(VBase + (syllable % (VCount * TCount) / TCount));
            if (syllable % TCount != 0)
                points.Add(TBase + (syllable % TCount));
        }
        else if (Decompositions.TryGetValue(point, out (int First, int Second) parts))
        {
            Decompose(parts.First, points);
            if (parts.Second != 0)
                Decompose(parts.Second, points);
        }
        else
        {
            points.Add(point);
        }
    }

    private static int ClassOf(int point) => Classes.GetValueOrDefault(point);

    /// <summary>Sorts each run of marks by class, equal ones as they are.</summary>
    private static void Order(Span<int> points)
    {
        for (int start = 0; start < points.Length; start++)
        {
            if (ClassOf(points[start]) == 0)
                continue;
            int end = start + 1;
            while (end < points.Length && ClassOf(points[end]) != 0)
                end++;
            int[] sorted = [.. points[start..end].ToArray().OrderBy(ClassOf)]; // a stable sort, n log n: a run may be as long as the text
            sorted.CopyTo(points[start..]);
            start = end;
        }
    }

    private static void Compose(List<int> points)
    {
        int starter = -1, write = 0, lastClass = 0;
        for (int read = 0; read < points.Count; read++)
        {
            int point = points[read], @class = ClassOf(point);
            // A mark reaches the starter unless one of its own class, or a starter, stands between.
            bool isBlocked = starter < 0 || (write - 1 > starter && (lastClass == 0 || lastClass >= @class));
            if (!isBlocked && Pair(points[starter], point) is { } composed)
            {
                points[starter] = composed;
                continue;
            }

            if (@class == 0)
                starter = write;
            lastClass = @class;
            points[write++] = point;
        }

        points.RemoveRange(write, points.Count - write);
    }

    private static int? Pair(int first, int second)
    {
        int l = first - LBase, v = second - VBase, s = first - SBase, t = second - TBase;
        if (l is >= 0 and < LCount && v is >= 0 and < VCount)
            return SBase + (((l * VCount) + v) * TCount);
        if (s is >= 0 and < SCount && s % TCount == 0 && t is > 0 and < TCount)
            return first + t;
        return Compositions.TryGetValue((first, second), out int composed) ? composed : null;
    }
}
