using System.Collections;
using System.Text;
using System.Text.Json;

namespace Qwen.Host;

/// <summary>Named values in order: one JSON object for programs, or aligned lines for people.</summary>
internal sealed class Facts : IEnumerable<(string Name, object? Value)>
{
    private readonly List<(string Name, object? Value)> _facts = [];

    /// <summary>Adds a fact.</summary>
    /// <param name="name">In JSON's snake case.</param>
    /// <param name="value">A string, bool, int, long, double, list of doubles or of facts, facts of their own, or null.</param>
    public void Add(string name, object? value) => _facts.Add((name, value));

    /// <summary>Writes them the way that was asked for.</summary>
    public Task WriteAsync(TextWriter output, bool asJson) => output.WriteLineAsync(asJson ? JsonLines.Format(WriteMembers) : ToString());

    /// <inheritdoc/>
    public override string ToString()
    {
        var text = new StringBuilder();
        Append(text, "");
        return text.ToString().TrimEnd();
    }

    public IEnumerator<(string Name, object? Value)> GetEnumerator() => _facts.GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    private void WriteMembers(Utf8JsonWriter json)
    {
        foreach ((string name, object? value) in _facts)
        {
            json.WritePropertyName(name);
            WriteValue(json, value);
        }
    }

    private static void WriteValue(Utf8JsonWriter json, object? value)
    {
        switch (value)
        {
            case null: json.WriteNullValue(); break;
            case string text: json.WriteStringValue(text); break;
            case bool flag: json.WriteBooleanValue(flag); break;
            case int number: json.WriteNumberValue(number); break;
            case long number: json.WriteNumberValue(number); break;
            case double number: json.WriteNumberValue(number); break;
            case Facts facts:
                json.WriteStartObject();
                facts.WriteMembers(json);
                json.WriteEndObject();
                break;
            case IEnumerable list:
                json.WriteStartArray();
                foreach (object? item in list)
                    WriteValue(json, item);
                json.WriteEndArray();
                break;
            default: throw new ArgumentOutOfRangeException(nameof(value), value, "is of no type that facts have.");
        }
    }

    private void Append(StringBuilder text, string indent)
    {
        int width = _facts.Count == 0 ? 0 : _facts.Max(f => f.Name.Length);
        foreach ((string name, object? value) in _facts)
        {
            string label = indent + name.Replace('_', ' ');
            if (value is Facts facts)
            {
                text.AppendLine(label);
                facts.Append(text, indent + "  ");
            }
            else
            {
                text.AppendLine($"{label.PadRight(indent.Length + width)}  {Plain(value)}");
            }
        }
    }

    private static string Plain(object? value) => value switch
    {
        null => "none",
        string text => text,
        bool flag => flag ? "yes" : "no",
        int or long => $"{value:N0}",
        double number => number.ToString(number is > -1 and < 1 ? "0.####" : "N1"),
        Facts facts => string.Join(", ", facts.Select(f => $"{f.Name.Replace('_', ' ')} {Plain(f.Value)}")),
        IEnumerable list => list.Cast<object?>().Select(Plain).ToArray() is { Length: > 0 } items ? string.Join("; ", items) : "none",
        _ => value.ToString() ?? "",
    };
}
