using System.Globalization;

namespace Qwen.Native.Ptx;

/// <summary>How a load or store of global memory treats the caches.</summary>
public enum CacheHint
{
    /// <summary>As usual.</summary>
    None,

    /// <summary>Nobody writes it while the kernel runs: the read-only path.</summary>
    ReadOnly,

    /// <summary>Read-only and read once: it takes no room in L1, and L2 reads 256 bytes ahead. For weights.</summary>
    ReadOnce,

    /// <summary>Past L1, for what other blocks write meanwhile.</summary>
    L2Only,

    /// <summary>Likely not to be used again.</summary>
    Streaming,
}

/// <content>Loads, stores and atomics.</content>
public sealed partial class PtxBuilder
{
    /// <summary>Loads a register from global memory.</summary>
    public T Load<T>(Global address, CacheHint hint = CacheHint.None, Pred? when = null)
        where T : struct, IRegister<T> => LoadVector<T>(address, 1, hint, when)[0];

    /// <summary>Loads 1, 2 or 4 registers from consecutive global memory, in one access aligned to its size.</summary>
    public T[] LoadVector<T>(Global address, int count, CacheHint hint = CacheHint.None, Pred? when = null)
        where T : struct, IRegister<T> => Loaded<T>($"ld.global{Hint(hint, isLoad: true)}", address.ToString(), count, when);

    /// <summary>Loads 1, 2 or 4 registers that exist: what a loop carries on. Where <paramref name="when"/> doesn't hold they stay as they are.</summary>
    public void LoadInto<T>(ReadOnlySpan<T> registers, Global address, CacheHint hint = CacheHint.None, Pred? when = null)
        where T : struct, IRegister<T> => Line($"{Guard(when)}ld.global{Hint(hint, isLoad: true)}{Shape<T>(registers.Length)} {List(registers)}, {address};");

    /// <summary>Loads a register from shared memory.</summary>
    public T Load<T>(Shared address, Pred? when = null)
        where T : struct, IRegister<T> => LoadVector<T>(address, 1, when)[0];

    /// <summary>Loads 1, 2 or 4 registers from consecutive shared memory, in one access aligned to its size.</summary>
    public T[] LoadVector<T>(Shared address, int count, Pred? when = null)
        where T : struct, IRegister<T> => Loaded<T>("ld.shared", address.ToString(), count, when);

    /// <summary>Loads 1, 2 or 4 registers that exist. Where <paramref name="when"/> doesn't hold they stay as they are.</summary>
    public void LoadInto<T>(ReadOnlySpan<T> registers, Shared address, Pred? when = null)
        where T : struct, IRegister<T> => Line($"{Guard(when)}ld.shared{Shape<T>(registers.Length)} {List(registers)}, {address};");

    /// <summary>Loads an unsigned byte.</summary>
    public U32 LoadByte(Global address, CacheHint hint = CacheHint.None, Pred? when = null) => LoadedByte($"ld.global{Hint(hint, isLoad: true)}.u8", address.ToString(), when);

    /// <summary>Loads an unsigned byte.</summary>
    public U32 LoadByte(Shared address) => LoadedByte("ld.shared.u8", address.ToString(), null);

    /// <summary>Stores a register to global memory.</summary>
    public void Store<T>(Global address, T value, Pred? when = null, CacheHint hint = CacheHint.None)
        where T : struct, IRegister<T> => StoreVector(address, [value], when, hint);

    /// <summary>Stores 1, 2 or 4 registers to consecutive global memory.</summary>
    public void StoreVector<T>(Global address, ReadOnlySpan<T> values, Pred? when = null, CacheHint hint = CacheHint.None)
        where T : struct, IRegister<T> => Line($"{Guard(when)}st.global{Hint(hint, isLoad: false)}{Shape<T>(values.Length)} {address}, {List(values)};");

    /// <summary>Stores a register to shared memory.</summary>
    public void Store<T>(Shared address, T value, Pred? when = null)
        where T : struct, IRegister<T> => StoreVector(address, [value], when);

    /// <summary>Stores 1, 2 or 4 registers to consecutive shared memory.</summary>
    public void StoreVector<T>(Shared address, ReadOnlySpan<T> values, Pred? when = null)
        where T : struct, IRegister<T> => Line($"{Guard(when)}st.shared{Shape<T>(values.Length)} {address}, {List(values)};");

    /// <summary>Stores the low byte.</summary>
    public void StoreByte(Global address, U32 value, Pred? when = null) => Line($"{Guard(when)}st.global.u8 {address}, {value.Operand};");

    /// <summary>Stores the low byte.</summary>
    public void StoreByte(Shared address, U32 value, Pred? when = null) => Line($"{Guard(when)}st.shared.u8 {address}, {value.Operand};");

    /// <summary>Adds to global memory and returns what was there.</summary>
    public U32 AtomicAdd(Global address, U32 value) => Atomic("atom.global.add.u32", address.ToString(), value.Operand);

    /// <summary>Adds to global memory. The order of such additions varies from run to run.</summary>
    public void AtomicAdd(Global address, F32 value, Pred? when = null) => Line($"{Guard(when)}red.global.add.f32 {address}, {value.Operand};");

    /// <summary>Adds to global memory, where a condition holds.</summary>
    public void AtomicAdd(Global address, U32 value, Pred when) => Line($"{Guard(when)}red.global.add.u32 {address}, {value.Operand};");

    /// <summary>Adds to global memory.</summary>
    public void AtomicAdd(Global address, U64 value, Pred? when = null) => Line($"{Guard(when)}red.global.add.u64 {address}, {value.Operand};");

    /// <summary>The old count, which is then one more, or 0 where it was <paramref name="last"/>: a ticket that counts itself back.</summary>
    public U32 AtomicIncrement(Global address, U32 last) => Atomic("atom.global.inc.u32", address.ToString(), last.Operand);

    /// <summary>The larger of an unsigned number in global memory and another takes its place.</summary>
    public void AtomicMax(Global address, U32 value, Pred? when = null) => Line($"{Guard(when)}red.global.max.u32 {address}, {value.Operand};");

    /// <summary>The larger of an unsigned number in global memory and another takes its place.</summary>
    public void AtomicMax(Global address, U64 value, Pred? when = null) => Line($"{Guard(when)}red.global.max.u64 {address}, {value.Operand};");

    /// <summary>Adds to shared memory.</summary>
    public void AtomicAdd(Shared address, U64 value, Pred? when = null) => Line($"{Guard(when)}red.shared.add.u64 {address}, {value.Operand};");

    /// <summary>Adds to shared memory, where a condition holds.</summary>
    public void AtomicAdd(Shared address, U32 value, Pred when) => Line($"{Guard(when)}red.shared.add.u32 {address}, {value.Operand};");

    /// <summary>Adds to shared memory and returns what was there.</summary>
    public U32 AtomicAdd(Shared address, U32 value) => Atomic("atom.shared.add.u32", address.ToString(), value.Operand);

    /// <summary>
    /// What this thread wrote, or saw written, before is seen by the whole device before what it writes after: between a result and its ticket, and between a
    /// ticket and the results of others. Cheaper than membar, which also puts the fences of all threads in one order.
    /// </summary>
    public void FenceDevice() => Line("fence.acq_rel.gpu;");

    /// <summary>Reads a word that another block releases: what it wrote before is seen after.</summary>
    public U32 LoadAcquire(Global address)
    {
        U32 value = Variable<U32>();
        Line($"ld.acquire.gpu.global.u32 {value.Operand}, {address};");
        return value;
    }

    /// <summary>Writes a word for others to acquire.</summary>
    public void StoreRelease(Global address, U32 value) => Line($"st.release.gpu.global.u32 {address}, {value.Operand};");

    /// <summary>Brings a line into L2. Nobody waits for it.</summary>
    public void PrefetchLine(Global address, Pred? when = null) => Line($"{Guard(when)}prefetch.global.L2 {address};");

    private U32 Atomic(string operation, string address, Operand value)
    {
        U32 result = Variable<U32>();
        Line($"{operation} {result.Operand}, {address}, {value};");
        return result;
    }

    private T[] Loaded<T>(string operation, string address, int count, Pred? when)
        where T : struct, IRegister<T>
    {
        var values = new T[count];
        for (int i = 0; i < count; i++)
            values[i] = when is null ? Variable<T>() : Variable(T.From(Zero<T>())); // a load that doesn't run leaves zeros
        Line($"{Guard(when)}{operation}{Shape<T>(count)} {List<T>(values)}, {address};");
        return values;
    }

    private U32 LoadedByte(string operation, string address, Pred? when)
    {
        U32 value = when is null ? Variable<U32>() : Variable<U32>(0);
        Line($"{Guard(when)}{operation} {value.Operand}, {address};");
        return value;
    }

    private static Operand Zero<T>()
        where T : struct, IRegister<T> => T.Prefix == "%f" ? Operand.Constant(0f) : Operand.Constant(0u);

    private static string Shape<T>(int count)
        where T : struct, IRegister<T> => (count == 1 ? "" : string.Create(CultureInfo.InvariantCulture, $".v{count}")) + "." + T.Type;

    private static string List<T>(ReadOnlySpan<T> values)
        where T : struct, IRegister<T>
    {
        if (values.Length == 1)
            return values[0].Operand.Text;
        var names = new string[values.Length];
        for (int i = 0; i < names.Length; i++)
            names[i] = values[i].Operand.Text;
        return $"{{{string.Join(", ", names)}}}";
    }

    private string Hint(CacheHint hint, bool isLoad)
    {
        switch (hint)
        {
            case CacheHint.None:
                return "";
            case CacheHint.ReadOnly when isLoad:
                return ".nc";
            case CacheHint.ReadOnce when isLoad:
                Require(PtxFeature.CacheHints);
                return ".nc.L1::no_allocate.L2::256B";
            case CacheHint.L2Only:
                return ".cg";
            case CacheHint.Streaming:
                return ".cs";
            default:
                throw new ArgumentOutOfRangeException(nameof(hint), hint, null);
        }
    }
}
