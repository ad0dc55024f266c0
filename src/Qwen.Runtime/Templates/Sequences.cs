using System.Numerics;

namespace Qwen.Runtime.Templates;

/// <summary>What lists, tuples, strings, ranges and dicts have in common: elements, a length and slices.</summary>
internal static class Sequences
{
    public static bool IsIterable(Value value) =>
        value is StringValue or SequenceValue or DictValue or RangeValue or ViewValue or GeneratorValue or LoopValue or UndefinedValue;

    /// <summary>What a loop over the value sees: elements, code points or keys. The array may be the value's own and is not to be changed.</summary>
    public static Value[] Items(RenderContext context, Value value)
    {
        switch (value)
        {
            case SequenceValue sequence:
                return sequence.Items;
            case ViewValue view:
                return view.Items;
            case GeneratorValue generator:
                return generator.Drain();
            case UndefinedValue:
                return [];
            case StringValue text:
                context.ChargeItems(text.Text.Length);
                return PythonText.CodePoints(text.Text);
            case DictValue dict:
                context.ChargeItems(dict.Items.Count);
                return [.. dict.Items.Keys];
            case RangeValue range:
                context.ChargeItems(range.Count);
                return [.. Enumerable.Range(0, range.Count).Select(range.At)];
            default:
                throw context.Error($"a {value.TypeName} cannot be looped over");
        }
    }

    /// <summary>The length of a value, or null where it has none.</summary>
    public static int? Length(RenderContext context, Value value)
    {
        switch (value)
        {
            case StringValue text:
                context.Charge(text.Text.Length);
                return PythonText.Length(text.Text);
            case SequenceValue sequence:
                return sequence.Items.Length;
            case DictValue dict:
                return dict.Items.Count;
            case RangeValue range:
                return range.Count;
            case ViewValue view:
                return view.Items.Length;
            case LoopValue loop:
                return loop.Items.Length;
            case UndefinedValue:
                return 0;
            default:
                return null;
        }
    }

    /// <summary>The element at an index, counted from the end where negative; null where there is none.</summary>
    public static Value? ElementAt(RenderContext context, Value value, BigInteger index)
    {
        int length = Length(context, value)!.Value;
        if (index.Sign < 0)
            index += length;
        if (index.Sign < 0 || index >= length)
            return null;
        int i = (int)index;
        if (value is not StringValue { Text: string text })
            return value is RangeValue range ? range.At(i) : ((SequenceValue)value).Items[i];
        int unit = PythonText.UnitIndex(text, i);
        return new StringValue(text[unit..PythonText.UnitIndex(text, i + 1)]);
    }

    /// <summary>Python's <c>value[start:stop:step]</c>.</summary>
    public static Value Slice(RenderContext context, Value value, Value start, Value stop, Value step)
    {
        Operators.RequireDefined(context, value);
        if (value is not (StringValue or SequenceValue or RangeValue))
            throw context.Error($"a {value.TypeName} cannot be sliced");
        if (Array.Find([start, stop, step], bound => bound is not (NoneValue or IntValue or BoolValue)) is { } wrong)
            throw context.Error($"a slice needs integers, not '{wrong.TypeName}'");
        int length = Length(context, value)!.Value;
        BigInteger stride = Bound(step) ?? BigInteger.One;
        if (stride.IsZero)
            throw context.Error("a slice's step cannot be zero");
        bool forward = stride.Sign > 0;
        int lowest = forward ? 0 : -1, highest = forward ? length : length - 1;
        int from = Clamp(Bound(start), length, lowest, highest, otherwise: forward ? lowest : highest);
        int to = Clamp(Bound(stop), length, lowest, highest, otherwise: forward ? highest : lowest);
        int by = (int)BigInteger.Clamp(stride, -int.MaxValue, int.MaxValue);
        if (value is StringValue { Text: string text } && by == 1)
        {
            context.Charge(text.Length);
            return from >= to ? StringValue.Empty : new StringValue(text[PythonText.UnitIndex(text, from)..PythonText.UnitIndex(text, to)]);
        }
        if (value is RangeValue range)
            return new RangeValue(range.Start + (from * range.Step), range.Start + (to * range.Step), range.Step * by);
        int count = new RangeValue(from, to, by).Count;
        Value[] items = Items(context, value);
        context.ChargeItems(count);
        var picked = new Value[count];
        for (int i = 0; i < count; i++)
            picked[i] = items[from + (i * (long)by)];
        return value switch
        {
            StringValue => new StringValue(string.Concat(picked.Select(c => ((StringValue)c).Text))),
            TupleValue => new TupleValue(picked),
            _ => new ListValue(picked),
        };
    }

    private static int Clamp(BigInteger? bound, int length, int lowest, int highest, int otherwise) =>
        bound is not { } index ? otherwise : (int)BigInteger.Clamp(index.Sign < 0 ? index + length : index, lowest, highest);

    private static BigInteger? Bound(Value value) => Operators.TryInteger(value, out BigInteger bound) ? bound : null;
}
