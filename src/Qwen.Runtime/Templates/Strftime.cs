using System.Globalization;
using System.Text;

namespace Qwen.Runtime.Templates;

/// <summary>C's <c>strftime</c> in the C locale, with glibc's "-" for numbers without padding.</summary>
internal static class Strftime
{
    public static string Format(RenderContext context, string format, DateTimeOffset time)
    {
        context.Charge(16L * format.Length);
        var text = new StringBuilder();
        for (int i = 0; i < format.Length; i++)
        {
            if (format[i] != '%' || i + 1 == format.Length)
            {
                text.Append(format[i]);
                continue;
            }
            bool padded = format[++i] != '-';
            if (!padded && i + 1 < format.Length)
                i++;
            string? field = Field(format[i], time);
            if (field is null)
                throw context.Error($"strftime has no directive '%{format[i]}'");
            text.Append(padded || field.Length < 2 ? field : field.TrimStart('0', ' ').PadLeft(1, '0'));
        }
        return text.ToString();
    }

    private static string Part(DateTimeOffset time, string format) => time.ToString(format, CultureInfo.InvariantCulture);

    private static string? Field(char directive, DateTimeOffset time) => directive switch
    {
        '%' => "%",
        'a' => Part(time, "ddd"),
        'A' => Part(time, "dddd"),
        'b' or 'h' => Part(time, "MMM"),
        'B' => Part(time, "MMMM"),
        'c' => $"{Part(time, "ddd MMM")} {time.Day,2} {Part(time, "HH:mm:ss yyyy")}",
        'd' => Part(time, "dd"),
        'D' or 'x' => Part(time, "MM/dd/yy"),
        'e' => $"{time.Day,2}",
        'f' => Part(time, "ffffff"),
        'F' => Part(time, "yyyy-MM-dd"),
        'H' => Part(time, "HH"),
        'I' => Part(time, "hh"),
        'j' => $"{time.DayOfYear:000}",
        'm' => Part(time, "MM"),
        'M' => Part(time, "mm"),
        'n' => "\n",
        'p' => Part(time, "tt"),
        'R' => Part(time, "HH:mm"),
        's' => $"{time.ToUnixTimeSeconds()}",
        'S' => Part(time, "ss"),
        't' => "\t",
        'T' or 'X' => Part(time, "HH:mm:ss"),
        'u' => $"{(time.DayOfWeek == DayOfWeek.Sunday ? 7 : (int)time.DayOfWeek)}",
        'w' => $"{(int)time.DayOfWeek}",
        'y' => Part(time, "yy"),
        'Y' => Part(time, "yyyy"),
        'z' or 'Z' => "", // Python formats a time without zone.
        _ => null,
    };
}
