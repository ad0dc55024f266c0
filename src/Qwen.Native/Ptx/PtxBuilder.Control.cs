using System.Globalization;

namespace Qwen.Native.Ptx;

/// <content>Loops and branches that run on the device.</content>
public sealed partial class PtxBuilder
{
    /// <summary>for (index = from; index &lt; to; index += step), unsigned. The body is what is emitted until the scope is disposed.</summary>
    public Scope For(U32 from, U32 to, U32 step, out U32 index)
    {
        U32 counter = index = Variable(from);
        string top = NewLabel("loop"), end = NewLabel("done");
        Line($"@{(counter >= to).Operand} bra {end};");
        Label(top);
        _depth++;
        return new Scope(() =>
        {
            Set(counter, counter + step);
            Line($"@{(counter < to).Operand} bra {top};");
            _depth--;
            Label(end);
        });
    }

    /// <summary>for (index = from; index &lt; to; index++).</summary>
    public Scope For(U32 from, U32 to, out U32 index) => For(from, to, 1, out index);

    /// <summary>while (condition). The condition is emitted at the top of the loop.</summary>
    public Scope While(Func<Pred> condition)
    {
        string top = NewLabel("loop"), end = NewLabel("done");
        Label(top);
        _depth++;
        Line($"@!{condition().Operand} bra {end};");
        return new Scope(() =>
        {
            Line($"bra {top};");
            _depth--;
            Label(end);
        });
    }

    /// <summary>if (condition).</summary>
    /// <param name="condition">Whether.</param>
    /// <param name="uniform">All threads of a warp agree, always.</param>
    public Scope If(Pred condition, bool uniform = false)
    {
        string end = NewLabel("endif");
        Line($"@!{condition.Operand} bra{(uniform ? ".uni" : "")} {end};");
        _depth++;
        return new Scope(() =>
        {
            _depth--;
            Label(end);
        });
    }

    /// <summary>if (condition) then else otherwise.</summary>
    public void If(Pred condition, Action then, Action otherwise)
    {
        string other = NewLabel("else"), end = NewLabel("endif");
        Line($"@!{condition.Operand} bra {other};");
        _depth++;
        then();
        Line($"bra {end};");
        _depth--;
        Label(other);
        _depth++;
        otherwise();
        _depth--;
        Label(end);
    }

    /// <summary>The thread ends here if a condition holds. Not before a barrier that others wait at.</summary>
    public void ReturnIf(Pred condition) => Line($"@{condition.Operand} ret;");

    private string NewLabel(string kind) => string.Create(CultureInfo.InvariantCulture, $"{kind}_{_labels++}");

    private void Label(string name)
    {
        _depth--;
        Line(name + ":");
        _depth++;
    }

    /// <summary>Ends a loop or a branch when disposed.</summary>
    public readonly struct Scope : IDisposable
    {
        private readonly Action _end;

        internal Scope(Action end) => _end = end;

        /// <inheritdoc/>
        public void Dispose() => _end();
    }
}
