namespace Qwen.Runtime.Templates;

/// <summary>Sorting by Python's order. .NET's own sorts are not stable, or wrap an error of the comparison in another.</summary>
internal static class Ordering
{
    /// <summary>A stable merge sort by key; reversed, equal items still keep their order.</summary>
    public static T[] Sort<T>(RenderContext context, T[] items, Func<T, Value> key, bool reverse)
    {
        context.ChargeItems(4L * items.Length);
        var source = Array.ConvertAll(items, item => (Key: key(item), Item: item));
        var target = new (Value Key, T Item)[items.Length];
        for (int width = 1; width < items.Length; width *= 2)
        {
            for (int start = 0; start < items.Length; start += 2 * width)
                Merge(context, source, target, start, Math.Min(start + width, items.Length), Math.Min(start + (2 * width), items.Length), reverse);
            (source, target) = (target, source);
        }
        return Array.ConvertAll(source, pair => pair.Item);
    }

    private static void Merge<T>(RenderContext context, (Value Key, T Item)[] source, (Value Key, T Item)[] target, int left, int middle, int end, bool reverse)
    {
        int right = middle;
        for (int i = left, l = left; i < end; i++)
        {
            bool takeLeft = right == end || (l < middle && !MustSwap(source[l].Key, source[right].Key));
            target[i] = source[takeLeft ? l++ : right++];
        }

        bool MustSwap(Value first, Value second)
        {
            int order = Operators.Order(context, first, second);
            return reverse ? order < 0 : order > 0;
        }
    }

    /// <summary>The key Jinja2 compares by: the item or an attribute of it, strings without regard to case unless asked for.</summary>
    public static Value Key(RenderContext context, Value item, Value? attribute, Value? caseSensitive)
    {
        Value key = attribute is null or NoneValue ? item : Members.Path(context, item, attribute);
        if (key is not StringValue text || caseSensitive is { IsTrue: true })
            return key;
        context.Charge(text.Text.Length);
        return new StringValue(text.Text.ToLowerInvariant());
    }
}
