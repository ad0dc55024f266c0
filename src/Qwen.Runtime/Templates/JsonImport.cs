using System.Globalization;
using System.Numerics;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Qwen.Runtime.Templates;

/// <summary>Turns the caller's JSON into values of the sandbox. All text is made valid Unicode here, so that no data can hold a control token's sentinel.</summary>
internal sealed class JsonImport(RenderContext context, ControlTokens controlTokens)
{
    private readonly HashSet<string> _trusted = [.. context.Options.TrustedVariables];

    /// <summary>The variables of a rendering. As in transformers, <c>tools</c> and <c>documents</c> are none where they are not given.</summary>
    public Scope Variables(JsonObject variables)
    {
        var scope = new Scope(parent: null);
        scope.Set("tools", NoneValue.Instance);
        scope.Set("documents", NoneValue.Instance);
        foreach ((string name, string text) in context.Options.ModelVariables)
            scope.Set(name, new StringValue(controlTokens.Substitute(Text(text))));
        foreach ((Value name, Value value) in Object(variables).Items)
        {
            string text = ((StringValue)name).Text;
            scope.Set(text, value is StringValue s && _trusted.Contains(text) ? new StringValue(controlTokens.Substitute(s.Text)) : value);
        }
        return scope;
    }

    private Value Node(JsonNode? node)
    {
        context.ChargeItems(1);
        switch (node)
        {
            case null:
                return NoneValue.Instance;
            case JsonObject obj:
                return Object(obj);
            case JsonArray array:
                context.Enter();
                var items = new ListValue([.. array.Select(Node)]);
                context.Leave();
                return items;
            default:
                return Scalar(node.AsValue());
        }
    }

    private DictValue Object(JsonObject obj)
    {
        context.Enter();
        OrderedDictionary<Value, Value> items = Dicts.Create(Count(obj));
        foreach ((string key, JsonNode? value) in obj)
            items[new StringValue(Text(key))] = Node(value);
        context.Leave();
        return new DictValue(items);
    }

    /// <summary>The number of members. System.Text.Json reads them only now, and finds what is wrong with their names.</summary>
    private int Count(JsonObject obj)
    {
        try
        {
            return obj.Count;
        }
        catch (Exception e) when (e is ArgumentException or InvalidOperationException)
        {
            throw context.Error($"the variables hold an object with a name that is there twice or is not Unicode: {e.Message}");
        }
    }

    private Value Scalar(JsonValue value)
    {
        switch (value.GetValueKind())
        {
            case JsonValueKind.True:
                return BoolValue.True;
            case JsonValueKind.False:
                return BoolValue.False;
            case JsonValueKind.Null:
                return NoneValue.Instance;
            case JsonValueKind.Number:
                return Number(value);
            default:
                return new StringValue(Text(Decode(value)));
        }
    }

    /// <summary>The text of a string. System.Text.Json decodes escapes only now, and refuses half of a surrogate pair.</summary>
    private string Decode(JsonValue value)
    {
        try
        {
            return value.ToString();
        }
        catch (InvalidOperationException e)
        {
            throw context.Error($"the variables hold a string that is not Unicode: {e.Message}");
        }
    }

    private string Text(string text)
    {
        context.Charge(text.Length);
        return ControlTokens.Sanitize(text);
    }

    private Value Number(JsonValue value)
    {
        if (!value.TryGetValue(out JsonElement _))
        {
            // Made by a program: a double is a float even where JSON would write it without a point.
            if (value.TryGetValue(out double d))
                return new FloatValue(d);
            if (value.TryGetValue(out float f))
                return new FloatValue(f);
        }
        string digits = value.ToJsonString();
        context.Charge(digits.Length);
        if (digits.AsSpan().IndexOfAny(".eE") >= 0)
            return new FloatValue(double.Parse(digits, CultureInfo.InvariantCulture));
        return Numbers.TryParseInteger(digits, 10, out BigInteger integer) ? new IntValue(integer) : throw context.Error($"an integer of {digits.Length} digits is too long");
    }
}
