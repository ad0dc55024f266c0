using System.Globalization;
using System.Text;
using Qwen.Native.Device;

namespace Qwen.Native.Ptx;

/// <summary>
/// Writes one kernel as PTX. Values are typed registers, whose operators emit instructions; C# loops unroll, and <c>For</c>,
/// <c>If</c> and <c>While</c> are the loops and branches that run on the device.
/// </summary>
/// <remarks>
/// The text is the same for the same calls: drivers cache compiled kernels by it. It says the lowest PTX version and target that what was
/// used needs, so that old drivers take it. A block is a line of threads.
/// </remarks>
public sealed partial class PtxBuilder
{
    private const int MostStaticShared = 48 << 10; // a block gets more than this only as dynamic shared memory
    private const string SharedName = "shared_memory";

    private readonly StringBuilder _head = new(); // what every later line may use, whatever branch asked for it first: parameters, special registers
    private readonly StringBuilder _body = new();
    private readonly Dictionary<string, U32> _specials = new(StringComparer.Ordinal);
    private readonly List<string> _parameters = [];
    private readonly SortedDictionary<string, (string Declaration, int Count)> _registers = new(StringComparer.Ordinal);
    private readonly string _name;
    private readonly int _threads, _blocksPerMultiprocessor;
    private PtxRequirement _needed = PtxRequirement.Of(PtxFeature.Base);
    private int _labels, _depth = 1, _sharedBytes, _sharedAlignment = 16;
    private U32? _sharedBase, _thread, _lane, _warp;

    /// <summary>Starts a kernel.</summary>
    /// <param name="target">What it is for.</param>
    /// <param name="name">The entry's name: letters, digits and underscores. Include what tells variants apart.</param>
    /// <param name="threads">Threads of a block, a multiple of 32.</param>
    /// <param name="blocksPerMultiprocessor">Blocks that shall fit a multiprocessor, which bounds registers; 0 leaves it to the compiler.</param>
    public PtxBuilder(PtxTarget target, string name, int threads, int blocksPerMultiprocessor = 0)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(threads % 32, 0);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)(threads - 1), 1023u);
        Target = target;
        _name = name;
        _threads = threads;
        _blocksPerMultiprocessor = blocksPerMultiprocessor;
    }

    /// <summary>What the kernel is for.</summary>
    public PtxTarget Target { get; }

    /// <summary>Threads of a block.</summary>
    public int Threads => _threads;

    /// <summary>Warps of a block.</summary>
    public int Warps => _threads / 32;

    /// <summary>The next parameter: a pointer to global memory.</summary>
    public Global Pointer(string name) => new(Parameter<U64>(name, "u64"));

    /// <summary>The next parameter: a 32-bit number.</summary>
    public U32 Number(string name) => Parameter<U32>(name, "u32");

    /// <summary>The next parameter: a float.</summary>
    public F32 Float(string name) => Parameter<F32>(name, "f32");

    /// <summary>The thread's number in its block.</summary>
    public U32 Thread => _thread ??= Special("%tid.x");

    /// <summary>The thread's number in its warp.</summary>
    public U32 Lane => _lane ??= AtTop(() => Thread & 31);

    /// <summary>A bit for each lane before this one.</summary>
    public U32 LanesBefore => Special("%lanemask_lt");

    /// <summary>The warp's number in its block.</summary>
    public U32 Warp => _warp ??= AtTop(() => Thread >> 5);

    /// <summary>The block's number.</summary>
    public U32 BlockX => Special("%ctaid.x");

    /// <summary>The block's number, second extent.</summary>
    public U32 BlockY => Special("%ctaid.y");

    /// <summary>The block's number, third extent.</summary>
    public U32 BlockZ => Special("%ctaid.z");

    /// <summary>Blocks of the grid.</summary>
    public U32 GridX => Special("%nctaid.x");

    /// <summary>Blocks of the grid, second extent.</summary>
    public U32 GridY => Special("%nctaid.y");

    /// <summary>Takes shared memory of the block. Its contents are undefined.</summary>
    public Shared AllocateShared(int bytes, int alignment = 16)
    {
        _sharedBase ??= Special(SharedName);
        int offset = (_sharedBytes + alignment - 1) / alignment * alignment;
        _sharedAlignment = Math.Max(_sharedAlignment, alignment);
        _sharedBytes = offset + bytes;
        return new Shared(_sharedBase.Value, offset);
    }

    /// <summary>Says that a feature is used.</summary>
    /// <exception cref="PtxTargetException">The target lacks it.</exception>
    public void Require(PtxFeature feature)
    {
        if (!Target.Has(feature))
            throw new PtxTargetException(feature, Target);
        PtxRequirement needed = PtxRequirement.Of(feature);
        _needed = new PtxRequirement(
            Math.Max(_needed.PtxVersion, needed.PtxVersion), Math.Max(_needed.Sm, needed.Sm), _needed.ArchitectureSpecific | needed.ArchitectureSpecific);
    }

    /// <summary>A new register without a value: for variables that are set in several places.</summary>
    public T Variable<T>()
        where T : struct, IRegister<T>
    {
        (string Declaration, int Count) set = _registers.GetValueOrDefault(T.Prefix, (T.Prefix switch { "%f" => "f32", "%r" => "b32", _ => T.Type }, 0));
        _registers[T.Prefix] = (set.Declaration, set.Count + 1);
        return T.From(new Operand(this, T.Prefix + set.Count.ToString(CultureInfo.InvariantCulture)));
    }

    /// <summary>A new register that starts as <paramref name="value"/> and may be <see cref="Set"/>.</summary>
    public T Variable<T>(T value)
        where T : struct, IRegister<T>
    {
        T variable = Variable<T>();
        Set(variable, value);
        return variable;
    }

    /// <summary>variable = value.</summary>
    public void Set<T>(T variable, T value)
        where T : struct, IRegister<T> => Line($"mov.{T.Type} {variable.Operand}, {value.Operand};");

    /// <summary>A line that says why.</summary>
    public void Comment(string text) => Line($"// {text}");

    /// <summary>The kernel.</summary>
    public PtxKernel Build()
    {
        Line("ret;");
        bool isDynamic = _sharedBytes > MostStaticShared;
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $".version {_needed.PtxVersion / 10}.{_needed.PtxVersion % 10}\n.target sm_{_needed.Sm}{(_needed.ArchitectureSpecific ? "a" : "")}\n.address_size 64\n\n");
        if (isDynamic)
            text.Append(CultureInfo.InvariantCulture, $".extern .shared .align {_sharedAlignment} .b8 {SharedName}[];\n\n");
        text.Append(CultureInfo.InvariantCulture, $".visible .entry {_name}(\n    {string.Join(",\n    ", _parameters)})\n.maxntid {_threads}, 1, 1\n");
        if (_blocksPerMultiprocessor > 0)
            text.Append(CultureInfo.InvariantCulture, $".minnctapersm {_blocksPerMultiprocessor}\n");
        text.Append("{\n");
        foreach ((string prefix, (string declaration, int count)) in _registers)
            text.Append(CultureInfo.InvariantCulture, $"    .reg .{declaration} {prefix}<{count}>;\n");
        if (_sharedBytes > 0 && !isDynamic)
            text.Append(CultureInfo.InvariantCulture, $"    .shared .align {_sharedAlignment} .b8 {SharedName}[{_sharedBytes}];\n");
        text.Append('\n').Append(_head).Append(_body).Append("}\n");
        return new PtxKernel(_name, text.ToString(), _threads, isDynamic ? _sharedBytes : 0);
    }

    /// <summary>Emits an instruction of the builder that its operands belong to.</summary>
    internal static T Emit<T>(string operation, params ReadOnlySpan<Operand> sources)
        where T : struct, IRegister<T>
    {
        foreach (Operand source in sources)
        {
            if (source.Builder is { } builder)
                return builder.Instruction<T>(operation, sources);
        }

        throw new InvalidOperationException($"{operation}: no operand is a register.");
    }

    /// <summary>An instruction with a new register as its result.</summary>
    internal T Instruction<T>(string operation, params ReadOnlySpan<Operand> sources)
        where T : struct, IRegister<T>
    {
        T result = Variable<T>();
        Into(operation, result.Operand, sources);
        return result;
    }

    /// <summary>An instruction whose result goes to a given register.</summary>
    private void Into(string operation, Operand result, params ReadOnlySpan<Operand> sources)
    {
        var line = new StringBuilder(operation).Append(' ').Append(result.Text);
        foreach (Operand source in sources)
            line.Append(", ").Append(source.Text);
        Line(line.Append(';').ToString());
    }

    /// <summary>A line of PTX.</summary>
    internal void Line(string text) => _body.Append(' ', 4 * _depth).Append(text).Append('\n');

    /// <summary>The start of an instruction that runs only where a predicate holds.</summary>
    private static string Guard(Pred? when) => when is { } p ? $"@{p.Operand} " : "";

    private T Parameter<T>(string name, string type)
        where T : struct, IRegister<T>
    {
        _parameters.Add($".param .{type} {name}");
        T register = Variable<T>();
        _head.Append(CultureInfo.InvariantCulture, $"    ld.param.{type} {register.Operand}, [{name}];\n");
        if (type != "u64")
            return register;
        _head.Append(CultureInfo.InvariantCulture, $"    cvta.to.global.u64 {register.Operand}, {register.Operand};\n");
        return register;
    }

    private U32 Special(string name)
    {
        if (!_specials.TryGetValue(name, out U32 register))
        {
            _specials[name] = register = Variable<U32>();
            _head.Append(CultureInfo.InvariantCulture, $"    mov.u32 {register.Operand}, {name};\n");
        }

        return register;
    }

    /// <summary>Emits into the head of the kernel.</summary>
    private U32 AtTop(Func<U32> emit)
    {
        string body = _body.ToString();
        _body.Clear();
        int depth = _depth;
        _depth = 1;
        U32 result = emit();
        _depth = depth;
        _head.Append(_body);
        _body.Clear().Append(body);
        return result;
    }
}
