using System.Numerics;
using System.Runtime.InteropServices;
using Qwen.Emulation.Instructions;
using Qwen.Emulation.Programs;
using Qwen.Native.Device;

namespace Qwen.Emulation.Execution;

internal enum WarpState
{
    Ready,
    AtBarrier,
    Done,
}

/// <summary>
/// 32 lanes that run in step. Lanes that part at a branch run one side after the other and meet again at the branch's post-dominator: a
/// stack of (place, meeting place, lanes), as in Fung et al., "Dynamic Warp Formation" (2007).
/// </summary>
internal sealed unsafe class Warp : IDisposable
{
    private struct Frame
    {
        public int At;
        public int Meet;
        public uint Mask;
    }

    private readonly EntryProgram _program;
    private readonly void* _memory;
    private Frame[] _stack = new Frame[16];
    private int _depth;
    private Dim3 _blockSize;

    public Warp(Block block, int index, EntryProgram program)
    {
        (Block, Index, _program) = (block, index, program);
        RegisterLayout layout = program.Layout;
        int masks = ((layout.Slots + (2 * layout.PredicateCount)) * sizeof(uint)) + 64;
        Products = new WarpgroupProducts(this, layout);
        _memory = NativeMemory.AlignedAlloc((nuint)(layout.Bytes + masks), 64);
        Registers = (byte*)_memory;
        Written = (uint*)(Registers + layout.Bytes);
        Predicates = Written + layout.Slots;
        PredicatesWritten = Predicates + layout.PredicateCount;
        LocalBytes = program.LocalBytes;
        if (LocalBytes > 0)
            Local = (byte*)NativeMemory.Alloc((nuint)(LocalBytes * 64));
        foreach ((ulong bits, Source row) in layout.Constants)
        {
            for (int lane = 0; lane < 32; lane++)
                SetLane(row, lane, bits);
        }
    }

    public Block Block { get; }

    public int Index { get; }

    public byte* Registers { get; }

    /// <summary>For each register, the lanes that wrote it.</summary>
    public uint* Written { get; }

    public uint* Predicates { get; }

    public uint* PredicatesWritten { get; }

    /// <summary>Local memory of lane 0, 1, ...; then a byte for each of its bytes that says whether it was written.</summary>
    public byte* Local { get; }

    public int LocalBytes { get; }

    public WarpState State { get; set; }

    /// <summary>Lanes that have not exited.</summary>
    public uint Live { get; private set; }

    public Instruction? Current { get; private set; }

    public long Executed { get; private set; }

    public AsyncCopies Copies { get; } = new();

    public WarpgroupProducts Products { get; }

    /// <summary>Registers of a thread, by <c>setmaxnreg</c>.</summary>
    public int MaxRegisters { get; set; }

    /// <summary>Whether <c>griddepcontrol.wait</c> was passed.</summary>
    public bool GridWaited { get; set; }

    /// <summary>For each warp of the block, up to which segment its doing is ordered before what this one does next. See <see cref="Memory.SharedMemory"/>.</summary>
    public uint[] Known { get; } = new uint[32];

    public uint Segment { get; set; }

    /// <summary>Up to which of its segments <c>fence.proxy.async</c> has shown its writes to tensor cores and copy engine.</summary>
    public uint Fenced { get; set; }

    public void Start(uint lanes, uint segment)
    {
        RegisterLayout layout = _program.Layout;
        NativeMemory.Clear(Written, (nuint)((layout.Slots + (2 * layout.PredicateCount)) * sizeof(uint)));
        foreach ((_, Source row) in layout.Constants)
            Written[row.Slot] = uint.MaxValue;
        foreach ((string name, Source row) in layout.Specials)
        {
            Written[row.Slot] = uint.MaxValue;
            bool ofLane = SpecialRegisters.IsOfLane(name);
            if (ofLane && _blockSize == Block.Launch.BlockSize)
                continue;
            ulong value = SpecialRegisters.Value(name, this, 0);
            for (int lane = 0; lane < 32; lane++)
                SetLane(row, lane, ofLane ? SpecialRegisters.Value(name, this, lane) : value);
        }

        _blockSize = Block.Launch.BlockSize;

        if (LocalBytes > 0)
            NativeMemory.Clear(Local + (LocalBytes * 32), (nuint)(LocalBytes * 32));
        Live = lanes;
        State = WarpState.Ready;
        GridWaited = !Block.Launch.Overlaps;
        Copies.Clear();
        Products.Clear();
        MaxRegisters = _program.Registers;
        Fenced = segment - 1;
        Segment = segment;
        Array.Fill(Known, segment - 1);
        _depth = 1;
        _stack[0] = new Frame { At = 0, Meet = -1, Mask = lanes };
    }

    /// <summary>Runs until a barrier, a poll, the end, or so many instructions.</summary>
    public void Run(int slice)
    {
        Instruction[] code = _program.Code;
        long start = Executed;
        int left = slice;
        for (; left > 0; left--)
        {
            ref Frame top = ref _stack[_depth - 1];
            while (top.At == top.Meet || top.Mask == 0)
            {
                if (--_depth == 0)
                {
                    State = WarpState.Done;
                    Executed += slice - left;
                    if (Copies.Pending)
                        Fault(FaultKind.PendingCopy, "the warp ends with asynchronous copies that were not waited for.", 0, null);
                    if (Products.Pending)
                        Fault(FaultKind.PendingProduct, "the warp ends with products that were not waited for.", 0, null);
                    return;
                }

                top = ref _stack[_depth - 1];
            }

            Instruction instruction = code[top.At];
            Current = instruction;
            uint mask = top.Mask;
            if (instruction.Guard.Index >= 0)
                mask &= Predicate(instruction.Guard, mask);
            switch (instruction.Flow)
            {
                case Flow.Next:
                    if (mask != 0)
                        instruction.Execute(this, mask);
                    top.At++;
                    break;
                case Flow.Branch:
                    Part((Branch)instruction, mask, ref top);
                    break;
                case Flow.Exit:
                    top.At++;
                    Live &= ~mask;
                    for (int i = 0; i < _depth; i++)
                        _stack[i].Mask &= ~mask;
                    break;
                case Flow.Barrier:
                    top.At++;
                    if (mask == 0)
                        break;
                    if (mask != Live)
                        Fault(FaultKind.DivergentBarrier, $"lanes 0x{Live & ~mask:x8} of the warp do not reach the barrier with the others.", Live & ~mask, null);
                    instruction.Execute(this, mask);
                    if (State == WarpState.AtBarrier)
                    {
                        Executed += slice - left + 1;
                        return;
                    }

                    break;
                default:
                    top.At++;
                    if (mask == 0)
                        break;
                    instruction.Execute(this, mask);
                    Executed += slice - left + 1;
                    return;
            }
        }

        Executed = start + slice;
    }

    /// <summary>The lanes for which a predicate is true.</summary>
    public uint Predicate(PredicateSource source, uint mask)
    {
        if (source.Index < 0)
            return source.Negated ? 0 : uint.MaxValue;
        if ((PredicatesWritten[source.Index] & mask) != mask)
            Fault(FaultKind.UnwrittenRegister, "a predicate is read that the thread has not written.", mask & ~PredicatesWritten[source.Index], null);
        uint value = Predicates[source.Index];
        return source.Negated ? ~value : value;
    }

    public void SetPredicate(int index, uint value, uint mask)
    {
        if (index < 0)
            return;
        Predicates[index] = (Predicates[index] & ~mask) | (value & mask);
        PredicatesWritten[index] |= mask;
    }

    /// <summary>The row of a source, all of whose lanes in <paramref name="mask"/> must have been written.</summary>
    public byte* Row(Source source, uint mask)
    {
        if ((Written[source.Slot] & mask) != mask)
            FaultUnwritten(source, mask);
        return Registers + source.Offset;
    }

    public ulong Lane(Source source, int lane) =>
        source.Bits == 64 ? ((ulong*)(Registers + source.Offset))[lane] : ((uint*)(Registers + source.Offset))[lane];

    public void SetLane(Target target, int lane, ulong value) => SetLane(new Source(target.Offset, target.Slot, target.Bits), lane, value);

    public void SetLane(Source row, int lane, ulong value)
    {
        if (row.Bits == 64)
            ((ulong*)(Registers + row.Offset))[lane] = value;
        else
            ((uint*)(Registers + row.Offset))[lane] = row.Bits == 32 ? (uint)value : (uint)value & ((1U << row.Bits) - 1);
    }

    /// <summary>Reports a fault of the instruction that runs.</summary>
    /// <param name="kind">What happened.</param>
    /// <param name="detail">A sentence.</param>
    /// <param name="lanes">The lanes it happened to; the lowest is named.</param>
    /// <param name="address">Where.</param>
    [System.Diagnostics.CodeAnalysis.DoesNotReturn]
    public void Fault(FaultKind kind, string detail, uint lanes, ulong? address) =>
        FaultAt(kind, detail, lanes == 0 ? 0 : BitOperations.TrailingZeroCount(lanes), address);

    [System.Diagnostics.CodeAnalysis.DoesNotReturn]
    public void FaultAt(FaultKind kind, string detail, int lane, ulong? address)
    {
        Dim3 size = Block.Launch.BlockSize;
        int thread = (Index * 32) + lane;
        Dim3 index = new(thread % size.X, thread / size.X % size.Y, thread / size.X / size.Y);
        throw new DeviceFaultException(kind, detail, _program.Name, Current?.Line ?? 0, Current?.Text ?? "", Block.Index, index, address);
    }

    public void Dispose()
    {
        NativeMemory.AlignedFree(_memory);
        NativeMemory.Free(Local);
    }

    private void Part(Branch branch, uint taken, ref Frame top)
    {
        uint stay = top.Mask & ~taken;
        if (stay == 0)
        {
            top.At = branch.To;
            return;
        }

        top.At++;
        if (taken == 0)
            return;
        if (branch.IsUniform)
            Fault(FaultKind.Misuse, "a branch that the text calls uniform is taken by some lanes only.", taken, null);
        int next = top.At, meet = branch.Meet;
        if (meet >= 0 && meet == top.Meet)
            _depth--;
        else
            top.At = meet;

        // Where paths never meet again (meet is -1) the frame below holds no lanes of its own once both have exited.
        if (meet < 0)
            _depth--;
        Push(next, meet, stay);
        Push(branch.To, meet, taken);
    }

    private void Push(int at, int meet, uint mask)
    {
        if (at == meet)
            return;
        if (_depth == _stack.Length)
        {
            if (_depth >= 1 << 16)
                Fault(FaultKind.Overlong, "lanes part without end.", mask, null);
            Array.Resize(ref _stack, _depth * 2);
        }

        _stack[_depth++] = new Frame { At = at, Meet = meet, Mask = mask };
    }

    private void FaultUnwritten(Source source, uint mask) =>
        Fault(Products.IsUnderWay(source) ? FaultKind.PendingProduct : FaultKind.UnwrittenRegister, "a register is read that the thread has not written.", mask & ~Written[source.Slot], null);
}
