using System.Numerics;
using System.Text;

namespace Qwen.Runtime.Templates;

/// <summary>Python's operators on the values of a template.</summary>
internal static class Operators
{
    public static Value Binary(RenderContext context, string op, Value left, Value right)
    {
        RequireDefined(context, left);
        RequireDefined(context, right);
        return (op, left, right) switch
        {
            _ when IsNumber(left) && IsNumber(right) => Arithmetic(context, op, left, right),
            ("+", StringValue a, StringValue b) => Concatenate(context, a, b),
            ("+", ListValue a, ListValue b) => new ListValue(Append(context, a.Items, b.Items)),
            ("+", TupleValue a, TupleValue b) => new TupleValue(Append(context, a.Items, b.Items)),
            ("*", StringValue or SequenceValue, _) when TryInteger(right, out BigInteger times) => Repeat(context, left, times),
            ("*", _, StringValue or SequenceValue) when TryInteger(left, out BigInteger times) => Repeat(context, right, times),
            ("%", StringValue, _) => throw context.Error("formatting with % is not supported"),
            _ => throw context.Error($"unsupported operand types for {op}: '{left.TypeName}' and '{right.TypeName}'"),
        };
    }

    public static Value Unary(RenderContext context, string op, Value operand)
    {
        RequireDefined(context, operand);
        if (TryInteger(operand, out BigInteger integer))
            return new IntValue(op == "-" ? -integer : integer);
        if (operand is FloatValue { Number: double number })
            return new FloatValue(op == "-" ? -number : number);
        throw context.Error($"bad operand type for unary {op}: '{operand.TypeName}'");
    }

    public static void RequireDefined(RenderContext context, Value value)
    {
        if (value is UndefinedValue undefined)
            throw context.Error(undefined.Reason);
    }

    public static bool IsNumber(Value value) => value is IntValue or FloatValue or BoolValue;

    /// <summary>The value as an integer, where it is one; True and False are 1 and 0.</summary>
    public static bool TryInteger(Value value, out BigInteger integer)
    {
        integer = value switch { IntValue i => i.Number, BoolValue b => b.IsTrue ? BigInteger.One : BigInteger.Zero, _ => default };
        return value is IntValue or BoolValue;
    }

    /// <summary>The value of a number as a float; an integer beyond its range is an error.</summary>
    public static double ToFloat(RenderContext context, Value number)
    {
        if (number is FloatValue f)
            return f.Number;
        TryInteger(number, out BigInteger integer);
        double value = (double)integer;
        return double.IsFinite(value) ? value : throw context.Error("integer too large for a float");
    }

    public static IntValue Integer(RenderContext context, BigInteger value) =>
        value.GetBitLength() <= Numbers.MaxBits ? new IntValue(value) : throw context.Error($"integer of more than {Numbers.MaxBits} bits");

    private static Value Arithmetic(RenderContext context, string op, Value left, Value right)
    {
        if (TryInteger(left, out BigInteger a) && TryInteger(right, out BigInteger b) && op != "/" && !(op == "**" && b.Sign < 0))
            return Integer(context, IntegerArithmetic(context, op, a, b));
        double x = ToFloat(context, left), y = ToFloat(context, right);
        if (op is "/" or "//" or "%" && y == 0)
            throw context.Error("division by zero");
        return new FloatValue(op switch
        {
            "+" => x + y,
            "-" => x - y,
            "*" => x * y,
            "/" => x / y,
            "//" => Math.Floor((x - FloorModulo(x, y)) / y + 0.5),
            "%" => FloorModulo(x, y),
            _ => Power(context, x, y),
        });
    }

    private static BigInteger IntegerArithmetic(RenderContext context, string op, BigInteger a, BigInteger b)
    {
        switch (op)
        {
            case "+":
                return a + b;
            case "-":
                return a - b;
            case "*":
                return a * b;
            case "**":
                if (BigInteger.Abs(a) > 1 && b * a.GetBitLength() > 2 * Numbers.MaxBits)
                    throw context.Error($"integer of more than {Numbers.MaxBits} bits");
                // The remaining bases are 0, 1 and -1, for which only the exponent's parity and zero matter.
                return BigInteger.Pow(a, BigInteger.Abs(a) > 1 ? (int)b : b.IsZero ? 0 : b.IsEven ? 2 : 1);
            default:
                if (b.IsZero)
                    throw context.Error("division by zero");
                var quotient = BigInteger.DivRem(a, b, out BigInteger remainder);
                // Python rounds down, .NET towards zero.
                bool down = !remainder.IsZero && (remainder.Sign < 0) != (b.Sign < 0);
                return op == "//" ? (down ? quotient - 1 : quotient) : (down ? remainder + b : remainder);
        }
    }

    private static double FloorModulo(double x, double y)
    {
        double remainder = x % y;
        if (remainder != 0 && (remainder < 0) != (y < 0))
            remainder += y;
        return remainder == 0 ? Math.CopySign(0, y) : remainder;
    }

    private static double Power(RenderContext context, double x, double y)
    {
        if (x == 0 && y < 0)
            throw context.Error("division by zero");
        double power = Math.Pow(x, y);
        if (double.IsNaN(power) && !double.IsNaN(x) && !double.IsNaN(y))
            throw context.Error("complex numbers are not supported");
        if (double.IsInfinity(power) && double.IsFinite(x) && double.IsFinite(y))
            throw context.Error("float too large");
        return power;
    }

    private static StringValue Concatenate(RenderContext context, StringValue a, StringValue b)
    {
        context.Charge((long)a.Text.Length + b.Text.Length);
        return new StringValue(a.Text + b.Text);
    }

    private static Value[] Append(RenderContext context, Value[] a, Value[] b)
    {
        context.ChargeItems((long)a.Length + b.Length);
        return [.. a, .. b];
    }

    private static Value Repeat(RenderContext context, Value value, BigInteger times)
    {
        int length = value is StringValue s ? s.Text.Length : ((SequenceValue)value).Items.Length;
        BigInteger total = times.Sign <= 0 ? 0 : times * length;
        if (total > int.MaxValue)
            throw context.Error("the repeated value is too long");
        if (value is StringValue text)
        {
            context.Charge((long)total);
            return total.IsZero ? StringValue.Empty : new StringValue(new StringBuilder((int)total).Insert(0, text.Text, (int)times).ToString());
        }
        context.ChargeItems((long)total);
        var items = new Value[(int)total];
        for (int i = 0; i < items.Length; i += length)
            ((SequenceValue)value).Items.CopyTo(items, i);
        return value is ListValue ? new ListValue(items) : new TupleValue(items);
    }

    /// <summary>One link of a comparison: <c>== != &lt; &lt;= &gt; &gt;= in not in</c>.</summary>
    public static bool Compare(RenderContext context, string op, Value left, Value right) => op switch
    {
        "==" => AreEqual(context, left, right),
        "!=" => !AreEqual(context, left, right),
        "in" => IsIn(context, left, right),
        "not in" => !IsIn(context, left, right),
        _ => IsOrdered(context, op, left, right),
    };

    public static bool NumbersEqual(Value left, Value right)
    {
        if (TryInteger(left, out BigInteger a) && TryInteger(right, out BigInteger b))
            return a == b;
        if (left is FloatValue x && right is FloatValue y)
            return x.Number == y.Number;
        double number = left is FloatValue f ? f.Number : ((FloatValue)right).Number;
        TryInteger(left is FloatValue ? right : left, out BigInteger integer);
        return double.IsFinite(number) && Math.Floor(number) == number && new BigInteger(number) == integer;
    }

    public static bool AreEqual(RenderContext context, Value left, Value right)
    {
        context.Charge(1);
        switch (left, right)
        {
            case (StringValue a, StringValue b):
                context.Charge(a.Text.Length == b.Text.Length ? a.Text.Length : 0);
                return a.Text == b.Text;
            case (SequenceValue a, SequenceValue b):
                return a.TypeName == b.TypeName && a.Items.Length == b.Items.Length && AllEqual(context, a.Items, b.Items);
            case (DictValue a, DictValue b):
                return a.Items.Count == b.Items.Count && AllEqual(context, a, b);
            case (RangeValue a, RangeValue b):
                return a.Count == b.Count && (a.Count == 0 || a.Start == b.Start) && (a.Count < 2 || a.Step == b.Step);
            case (UndefinedValue, UndefinedValue):
                return true;
            default:
                return ReferenceEquals(left, right) || (IsNumber(left) && IsNumber(right) && NumbersEqual(left, right));
        }
    }

    private static bool AllEqual(RenderContext context, Value[] a, Value[] b)
    {
        context.Enter();
        bool equal = true;
        for (int i = 0; i < a.Length && equal; i++)
            equal = AreEqual(context, a[i], b[i]);
        context.Leave();
        return equal;
    }

    private static bool AllEqual(RenderContext context, DictValue a, DictValue b)
    {
        context.Enter();
        bool equal = true;
        foreach ((Value key, Value value) in a.Items)
            equal = equal && b.Items.TryGetValue(key, out Value? other) && AreEqual(context, value, other);
        context.Leave();
        return equal;
    }

    private static bool IsOrdered(RenderContext context, string op, Value left, Value right)
    {
        if (left is FloatValue { Number: double.NaN } || right is FloatValue { Number: double.NaN })
            return false;
        int order = Order(context, left, right);
        return op switch { "<" => order < 0, "<=" => order <= 0, ">" => order > 0, _ => order >= 0 };
    }

    /// <summary>The order of two numbers, strings, lists or tuples: negative, zero or positive.</summary>
    public static int Order(RenderContext context, Value left, Value right)
    {
        RequireDefined(context, left);
        RequireDefined(context, right);
        context.Charge(1);
        switch (left, right)
        {
            case (StringValue a, StringValue b):
                context.Charge(Math.Min(a.Text.Length, b.Text.Length));
                return PythonText.Compare(a.Text, b.Text);
            case (SequenceValue a, SequenceValue b) when a.TypeName == b.TypeName:
                return Order(context, a.Items, b.Items);
            case var _ when TryInteger(left, out BigInteger a) && TryInteger(right, out BigInteger b):
                return a.CompareTo(b);
            case var _ when IsNumber(left) && IsNumber(right):
                return ToFloat(context, left).CompareTo(ToFloat(context, right));
            default:
                throw context.Error($"'{left.TypeName}' and '{right.TypeName}' have no order");
        }
    }

    private static int Order(RenderContext context, Value[] a, Value[] b)
    {
        context.Enter();
        int order = 0;
        for (int i = 0; order == 0 && i < Math.Min(a.Length, b.Length); i++)
            order = AreEqual(context, a[i], b[i]) ? 0 : Order(context, a[i], b[i]);
        context.Leave();
        return order == 0 ? a.Length.CompareTo(b.Length) : order;
    }

    private static bool IsIn(RenderContext context, Value item, Value container)
    {
        switch (container)
        {
            case StringValue text:
                if (item is not StringValue part)
                    throw context.Error($"'in' on a string needs a string, not '{item.TypeName}'");
                context.ChargeSearch(text.Text, part.Text);
                return PythonText.Contains(text.Text, part.Text);
            case DictValue dict:
                return Dicts.Find(context, dict, item) is not null;
            default:
                foreach (Value candidate in Sequences.Items(context, container))
                {
                    if (ReferenceEquals(candidate, item) || AreEqual(context, candidate, item))
                        return true;
                }
                return false;
        }
    }
}
