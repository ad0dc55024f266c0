using System.Globalization;
using System.Numerics;
using System.Text;

namespace Qwen.Runtime.Templates;

/// <summary>Python's numbers as text: <c>int()</c>, <c>float()</c> and <c>repr()</c>.</summary>
internal static class Numbers
{
    /// <summary>Integers beyond this size are refused, so that no arithmetic can grow without bound.</summary>
    public const int MaxBits = 4096;

    private const int MaxDigits = 1233; // 10^1233 < 2^4096

    /// <summary>Parses an integer with optional sign, blanks around it and single underscores between digits; radix 0 goes by the prefix (0x, 0o, 0b).</summary>
    public static bool TryParseInteger(string text, int radix, out BigInteger value)
    {
        value = BigInteger.Zero;
        ReadOnlySpan<char> digits = PythonText.Strip(text);
        bool negative = digits.StartsWith("-");
        if (negative || digits.StartsWith("+"))
            digits = digits[1..];
        int prefixed = digits.Length > 2 && digits[0] == '0' ? char.ToLowerInvariant(digits[1]) switch { 'x' => 16, 'o' => 8, 'b' => 2, _ => 0 } : 0;
        if (prefixed != 0 && (radix == 0 || radix == prefixed))
        {
            radix = prefixed;
            digits = digits[2] == '_' ? digits[3..] : digits[2..];
        }
        else if (radix == 0)
            radix = 10;
        if (digits.Length is 0 or > MaxDigits)
            return false;
        bool separated = true; // an underscore must stand between two digits
        foreach (char c in digits)
        {
            if (c == '_' && !separated)
            {
                separated = true;
                continue;
            }
            int digit = char.IsAsciiLetterOrDigit(c) ? (char.IsAsciiDigit(c) ? c - '0' : (c | 0x20) - 'a' + 10) : int.MaxValue;
            if (digit >= radix)
                return false;
            value = (value * radix) + digit;
            separated = false;
        }
        value = negative ? -value : value;
        return !separated && value.GetBitLength() <= MaxBits;
    }

    /// <summary>Parses a float as Python's <c>float()</c> does.</summary>
    public static bool TryParseFloat(string text, out double value)
    {
        ReadOnlySpan<char> magnitude = PythonText.Strip(text);
        bool negative = magnitude.StartsWith("-");
        if (negative || magnitude.StartsWith("+"))
            magnitude = magnitude[1..];
        value = magnitude.ToString().ToLowerInvariant() switch
        {
            "inf" or "infinity" => double.PositiveInfinity,
            "nan" => double.NaN,
            _ => 0,
        };
        if (value == 0 && !double.TryParse(magnitude, NumberStyles.AllowDecimalPoint | NumberStyles.AllowExponent, CultureInfo.InvariantCulture, out value))
            return false;
        value = negative ? -value : value;
        return true;
    }

    /// <summary>Python's <c>repr</c> of a float: the shortest digits that read back as the same number, with an exponent below 1e-4 and from 1e16 on.</summary>
    public static string FormatFloat(double value)
    {
        if (double.IsNaN(value))
            return "nan";
        if (double.IsInfinity(value))
            return value > 0 ? "inf" : "-inf";
        (string digits, int exponent) = ShortestDigits(Math.Abs(value));
        var text = new StringBuilder(double.IsNegative(value) ? "-" : "");
        if (exponent is < -4 or >= 16)
        {
            text.Append(digits[0]);
            if (digits.Length > 1)
                text.Append('.').Append(digits, 1, digits.Length - 1);
            return text.Append('e').Append(exponent < 0 ? '-' : '+').Append(Math.Abs(exponent).ToString("00", CultureInfo.InvariantCulture)).ToString();
        }
        if (exponent < 0)
            return text.Append("0.").Append('0', -exponent - 1).Append(digits).ToString();
        if (digits.Length <= exponent + 1)
            return text.Append(digits).Append('0', exponent + 1 - digits.Length).Append(".0").ToString();
        return text.Append(digits, 0, exponent + 1).Append('.').Append(digits, exponent + 1, digits.Length - exponent - 1).ToString();
    }

    /// <summary>The digits d1 d2 d3... and the exponent e of d1.d2d3... * 10^e. .NET's shortest form has Python's digits; only the layout differs.</summary>
    private static (string Digits, int Exponent) ShortestDigits(double magnitude)
    {
        string shortest = magnitude.ToString("R", CultureInfo.InvariantCulture);
        int e = shortest.IndexOf('E', StringComparison.Ordinal);
        int exponent = e < 0 ? 0 : int.Parse(shortest.AsSpan(e + 1), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture);
        string mantissa = e < 0 ? shortest : shortest[..e];
        int point = mantissa.IndexOf('.', StringComparison.Ordinal);
        string digits = mantissa.Replace(".", "", StringComparison.Ordinal);
        string significant = digits.TrimStart('0');
        if (significant.Length == 0)
            return ("0", 0);
        exponent += (point < 0 ? mantissa.Length : point) - 1 - (digits.Length - significant.Length);
        return (significant.TrimEnd('0'), exponent);
    }
}
