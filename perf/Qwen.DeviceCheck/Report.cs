using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Qwen.DeviceCheck;

/// <summary>Results as they come, on the screen and, after each check, in <c>devicecheck.json</c> and <c>devicecheck.txt</c>.</summary>
internal sealed class Report(string folder)
{
    private readonly List<(string Name, string Value)> _facts = [];
    private readonly List<(string Check, string Case, string? Fault, double Seconds)> _results = [];
    private readonly List<(string Check, string Name, double Value, string Unit, double Bound)> _measures = [];
    private readonly List<string> _notes = [];
    private readonly StringBuilder _text = new();
    private string _check = "";

    /// <summary>Cases that failed so far.</summary>
    public int Failures { get; private set; }

    public void Fact(string name, string value)
    {
        _facts.Add((name, value));
        Print($"{name,-28} {value}");
    }

    public void Begin(string check)
    {
        _check = check;
        Print($"\n== {check}");
    }

    public void Pass(string name, TimeSpan elapsed)
    {
        _results.Add((_check, name, null, elapsed.TotalSeconds));
        Print(string.Create(CultureInfo.InvariantCulture, $"  ok    {name} ({elapsed.TotalSeconds:0.00} s)"));
    }

    public void Fail(string name, string fault)
    {
        Failures++;
        _results.Add((_check, name, fault, 0));
        Print($"  FAIL  {name}: {fault}");
    }

    public void Measure(string name, double value, string unit, double bound)
    {
        _measures.Add((_check, name, value, unit, bound));
        string share = bound > 0 ? string.Create(CultureInfo.InvariantCulture, $"  {value / bound:P0} of {bound:N1}") : "";
        Print(string.Create(CultureInfo.InvariantCulture, $"        {name,-56} {value,12:N2} {unit}{share}"));
    }

    public void Note(string text)
    {
        _notes.Add($"{_check}: {text}");
        Print($"  note  {text}");
    }

    /// <summary>Writes all there is so far.</summary>
    public void Write()
    {
        File.WriteAllText(Path.Combine(folder, "devicecheck.txt"), _text.ToString());
        using FileStream file = File.Create(Path.Combine(folder, "devicecheck.json"));
        using var json = new Utf8JsonWriter(file, new JsonWriterOptions { Indented = true });
        json.WriteStartObject();
        json.WriteStartObject("machine");
        foreach ((string name, string value) in _facts)
            json.WriteString(name, value);
        json.WriteEndObject();
        json.WriteNumber("failures", Failures);
        json.WriteStartArray("results");
        foreach ((string check, string name, string? fault, double seconds) in _results)
        {
            json.WriteStartObject();
            json.WriteString("check", check);
            json.WriteString("case", name);
            json.WriteString("fault", fault);
            json.WriteNumber("seconds", seconds);
            json.WriteEndObject();
        }

        json.WriteEndArray();
        json.WriteStartArray("measures");
        foreach ((string check, string name, double value, string unit, double bound) in _measures)
        {
            json.WriteStartObject();
            json.WriteString("check", check);
            json.WriteString("name", name);
            json.WriteNumber("value", value);
            json.WriteString("unit", unit);
            json.WriteNumber("bound", bound);
            json.WriteEndObject();
        }

        json.WriteEndArray();
        json.WriteStartArray("notes");
        foreach (string note in _notes)
            json.WriteStringValue(note);
        json.WriteEndArray();
        json.WriteEndObject();
    }

    private void Print(string line)
    {
        _text.AppendLine(line);
        Console.Out.WriteLine(line);
        Console.Out.Flush();
    }
}
