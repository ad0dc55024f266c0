namespace Qwen.Native.Ptx;

/// <content>What the threads of a warp or a block do together. All of them take part.</content>
public sealed partial class PtxBuilder
{
    private const string AllLanes = "0xffffffff";

    /// <summary>All threads of the block get here, and see what the others wrote, before any goes on.</summary>
    public void Barrier() => Line("bar.sync 0;");

    /// <summary>A barrier of some warps alone.</summary>
    /// <param name="id">Which barrier, 1 to 15.</param>
    /// <param name="threads">Threads that take part, a multiple of 32.</param>
    public void Barrier(int id, int threads) => Line($"bar.sync {id}, {threads};");

    /// <summary>A barrier of some warps alone, whose number is known only at run time, the same for all threads of a warp.</summary>
    public void Barrier(U32 id, int threads) => Line($"bar.sync {id.Operand}, {threads};");

    /// <summary>Counts as having reached a barrier, but goes on.</summary>
    /// <param name="id">Which barrier, 1 to 15.</param>
    /// <param name="threads">Threads that take part, those included that wait.</param>
    public void BarrierArrive(U32 id, int threads) => Line($"bar.arrive {id.Operand}, {threads};");

    /// <summary>The threads of the warp get here, and see what the others wrote, before any goes on.</summary>
    public void WarpBarrier() => Line($"bar.warp.sync {AllLanes};");

    /// <summary>The value of the lane whose number differs in the bits of <paramref name="mask"/>.</summary>
    public T ShuffleXor<T>(T value, int mask)
        where T : struct, IRegister<T> => Shuffle(value, "bfly", Operand.Constant(mask), 31);

    /// <summary>The value of the lane <paramref name="delta"/> before; its own, where there is none.</summary>
    public T ShuffleUp<T>(T value, int delta)
        where T : struct, IRegister<T> => Shuffle(value, "up", Operand.Constant(delta), 0);

    /// <summary>The value of a lane.</summary>
    public T ShuffleFrom<T>(T value, U32 lane)
        where T : struct, IRegister<T> => Shuffle(value, "idx", lane.Operand, 31);

    /// <summary>A bit for each lane whose predicate holds.</summary>
    public U32 Ballot(Pred value) => VoteWord("vote.sync.ballot.b32", value);

    /// <summary>Whether it holds for any lane.</summary>
    public Pred Any(Pred value) => VotePred("vote.sync.any.pred", value);

    /// <summary>Whether it holds for all lanes.</summary>
    public Pred All(Pred value) => VotePred("vote.sync.all.pred", value);

    /// <summary>The sum over groups of <paramref name="lanes"/> neighbouring lanes, in every one of them, as a tree: always in the same order.</summary>
    public F32 SumLanes(F32 value, int lanes = 32) => ReduceLanes(value, lanes, (a, b) => a + b);

    /// <summary>The largest over groups of <paramref name="lanes"/> neighbouring lanes, in every one of them.</summary>
    public F32 MaxLanes(F32 value, int lanes = 32) => ReduceLanes(value, lanes, Max);

    /// <summary>All values of groups of <paramref name="lanes"/> neighbouring lanes, combined, in every one of them.</summary>
    public T ReduceLanes<T>(T value, int lanes, Func<T, T, T> combine)
        where T : struct, IRegister<T>
    {
        for (int mask = lanes / 2; mask > 0; mask /= 2)
            value = combine(value, ShuffleXor(value, mask));
        return value;
    }

    /// <summary>The sum over the block, in every thread, always in the same order.</summary>
    /// <param name="value">Each thread's.</param>
    /// <param name="scratch">Shared memory for a float of each warp. Free again at the next barrier.</param>
    public F32 SumBlock(F32 value, Shared scratch) => ReduceBlock(value, scratch, (a, b) => a + b, 0f);

    /// <summary>The largest over the block, in every thread.</summary>
    /// <param name="value">Each thread's.</param>
    /// <param name="scratch">Shared memory for a float of each warp. Free again at the next barrier.</param>
    public F32 MaxBlock(F32 value, Shared scratch) => ReduceBlock(value, scratch, Max, float.NegativeInfinity);

    /// <summary>All values of the block, combined, in every thread.</summary>
    /// <param name="value">Each thread's.</param>
    /// <param name="scratch">Shared memory for a value of each warp. Free again at the next barrier.</param>
    /// <param name="combine">Associative.</param>
    /// <param name="neutral">What changes nothing when combined.</param>
    public T ReduceBlock<T>(T value, Shared scratch, Func<T, T, T> combine, T neutral)
        where T : struct, IRegister<T>
    {
        value = ReduceLanes(value, 32, combine);
        if (Warps == 1)
            return value;
        Store(scratch.At(Warp, T.Bytes), value, Lane.Is(0));
        Barrier();
        T ofWarp = Variable(neutral);
        Line($"@{(Lane < Warps).Operand} ld.shared.{T.Type} {ofWarp.Operand}, {scratch.At(Lane, T.Bytes)};");
        return ReduceLanes(ofWarp, 32, combine);
    }

    /// <summary>The sum over the threads before, and that over the block, in every thread.</summary>
    /// <param name="value">Each thread's.</param>
    /// <param name="scratch">Shared memory for a value of each warp. Free again at the next barrier.</param>
    public (U64 Before, U64 All) SumBefore(U64 value, Shared scratch)
    {
        U64 running = Variable(value), before = Variable<U64>(0ul), all = Variable<U64>(0ul);
        for (int delta = 1; delta < 32; delta *= 2)
        {
            U64 earlier = ShuffleUp(running, delta);
            Set(running, running + Select<U64>(Lane >= delta, earlier, 0ul));
        }

        Store(scratch.At(Warp, sizeof(ulong)), running, Lane.Is(31));
        Barrier();
        for (int warp = 0; warp < Warps; warp++)
        {
            U64 ofWarp = Load<U64>(scratch + (warp * sizeof(ulong)));
            AddInto(all, ofWarp);
            AddInto(before, Select<U64>(Warp > warp, ofWarp, 0ul));
        }

        return (before + (running - value), all);
    }

    /// <summary>Programmatic dependent launch: waits until the kernel before is done and what it wrote is seen. Nothing before sm_90.</summary>
    public void WaitForPreviousKernel()
    {
        if (!Target.Has(PtxFeature.DependentLaunch))
            return;
        Require(PtxFeature.DependentLaunch);
        Line("griddepcontrol.wait;");
    }

    /// <summary>Programmatic dependent launch: the kernel after may start (it waits itself for what this one writes). Nothing before sm_90.</summary>
    public void LetNextKernelStart()
    {
        if (!Target.Has(PtxFeature.DependentLaunch))
            return;
        Require(PtxFeature.DependentLaunch);
        Line("griddepcontrol.launch_dependents;");
    }

    private T Shuffle<T>(T value, string mode, Operand lane, int clamp)
        where T : struct, IRegister<T>
    {
        if (T.Bytes == sizeof(ulong))
        {
            (U32 low, U32 high) = Split(new U64(value.Operand));
            return T.From(Join(Shuffle(low, mode, lane, clamp), Shuffle(high, mode, lane, clamp)).Operand);
        }

        T result = Variable<T>();
        Line($"shfl.sync.{mode}.b32 {result.Operand}, {value.Operand}, {lane}, {clamp}, {AllLanes};");
        return result;
    }

    private U32 VoteWord(string operation, Pred value)
    {
        U32 result = Variable<U32>();
        Line($"{operation} {result.Operand}, {value.Operand}, {AllLanes};");
        return result;
    }

    private Pred VotePred(string operation, Pred value)
    {
        Pred result = Variable<Pred>();
        Line($"{operation} {result.Operand}, {value.Operand}, {AllLanes};");
        return result;
    }
}
