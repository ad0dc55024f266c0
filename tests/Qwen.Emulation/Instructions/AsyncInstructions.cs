using System.Numerics;
using Qwen.Emulation.Execution;
using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Instructions;

/// <summary><c>cp.async</c>, <c>cp.async.bulk</c> and <c>mbarrier</c> (PTX ISA, "Asynchronous copy", "mbarrier").</summary>
internal static class AsyncInstructions
{
    public static Instruction Copy(Decoder d)
    {
        if (!d.Take("async"))
            throw d.Error("only cp.async is known.");
        if (d.Take("bulk"))
            return Bulk(d);
        if (d.Take("commit_group"))
        {
            d.Expect(0);
            return new CommitGroup();
        }

        if (d.Take("wait_all"))
        {
            d.Expect(0);
            return new WaitGroup(-1);
        }

        if (d.Take("wait_group"))
        {
            d.Expect(1);
            return new WaitGroup(d.Number(0) is <= 1024 and var pending ? (int)pending : throw d.Error("too many groups."));
        }

        if (d.Take("mbarrier"))
        {
            if (!d.Take("arrive") || !d.Take("noinc"))
                throw d.Error("only cp.async.mbarrier.arrive.noinc is known.");
            Shared(d);
            d.Take("b64");
            d.Expect(1);
            return new CopiesArrive(d.Addressing(0, StateSpace.Shared));
        }

        string cache = d.TakeAny("ca", "cg") ?? throw d.Error("the copy is .ca or .cg.");
        Shared(d);
        if (!d.Take("global"))
            throw d.Error("the copy goes from .global to .shared.");
        d.TakeHints();
        bool hinted = d.Take("L2::cache_hint");
        d.Expect(3, hinted ? 5 : 4);
        int bytes = (int)d.Number(2);
        if (!(bytes == 16 || (cache == "ca" && bytes is 4 or 8 && cache == "ca")))
            throw d.Error("a copy has 16 bytes, or 4 or 8 with .ca.");
        int last = d.Count - (hinted ? 1 : 0);
        bool ignores = last > 3 && d.IsPredicate(3);
        return new CopyAsync(d.Addressing(0, StateSpace.Shared), d.Addressing(1, StateSpace.Global), bytes,
            last > 3 && !ignores ? d.Read(3, PtxType.B32) : d.Layout.Constant((ulong)bytes, 32), ignores ? d.ReadPredicate(3) : new(-1, true));
    }

    public static Instruction Barrier(Decoder d)
    {
        string operation = d.TakeAny("init", "inval", "arrive", "expect_tx", "test_wait", "try_wait") ?? throw d.Error("the operation is missing.");
        bool expects = operation == "arrive" && d.Take("expect_tx");
        bool parity = d.Take("parity");
        d.TakeAny("release", "acquire", "relaxed");
        d.TakeAny("cta", "cluster");
        d.Take("noComplete");
        Shared(d);
        d.Take("b64");
        switch (operation)
        {
            case "init":
                d.Expect(2);
                return new BarrierInitialize(d.Addressing(0, StateSpace.Shared), d.Read(1, PtxType.B32));
            case "inval":
                d.Expect(1);
                return new BarrierInitialize(d.Addressing(0, StateSpace.Shared), null);
            case "expect_tx":
                d.Expect(2);
                return new BarrierArrive(new(-1, -1, 64), d.Addressing(0, StateSpace.Shared), d.Read(1, PtxType.B32), null);
            case "arrive":
                bool returns = d.At(0) is not AddressOperand;
                int first = returns ? 1 : 0;
                d.Expect(first + (expects ? 2 : 1), first + 2);
                Source operand = d.Count > first + 1 ? d.Read(first + 1, PtxType.B32) : d.Layout.Constant(1, 32);
                return new BarrierArrive(returns ? d.Write(0, PtxType.B64) : new(-1, -1, 64), d.Addressing(first, StateSpace.Shared),
                    expects ? operand : null, expects ? d.Layout.Constant(1, 32) : operand);
            default:
                d.Expect(3, 4);
                return new BarrierWait(d.WritePredicate(d.At(0)), d.Addressing(1, StateSpace.Shared), parity ? d.Read(2, PtxType.B32) : d.Read(2, PtxType.B64), parity);
        }
    }

    private static Instruction Bulk(Decoder d)
    {
        if (d.Take("prefetch") && d.Take("L2") && d.Take("global"))
        {
            d.Expect(2);
            return new PrefetchBulk(d.Addressing(0, StateSpace.Global), d.Read(1, PtxType.B32));
        }

        if (d.TakeAny("shared::cluster", "shared::cta") is null || !d.Take("global") || !d.Take("mbarrier::complete_tx::bytes"))
            throw d.Error("only copies from .global to .shared with .mbarrier::complete_tx::bytes are known.");
        bool hinted = d.Take("L2::cache_hint");
        d.Expect(hinted ? 5 : 4);
        return new CopyBulk(d.Addressing(0, StateSpace.Shared), d.Addressing(1, StateSpace.Global), d.Read(2, PtxType.B32), d.Addressing(3, StateSpace.Shared));
    }

    private static void Shared(Decoder d)
    {
        if (d.TakeAny("shared", "shared::cta", "shared::cluster") is null)
            throw d.Error("the instruction is of .shared memory.");
    }
}

internal sealed unsafe class CopyAsync(Addressing to, Addressing from, int bytes, Source sourceBytes, PredicateSource ignore) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        ulong* destinations = stackalloc ulong[32];
        ulong* sources = stackalloc ulong[32];
        to.Addresses(warp, mask, destinations);
        from.Addresses(warp, mask, sources);
        to.Count(warp, destinations, mask, bytes, write: true);
        from.Count(warp, sources, mask, bytes, write: false);
        uint* sizes = (uint*)warp.Row(sourceBytes, mask);
        uint ignored = warp.Predicate(ignore, mask);
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            int size = (ignored >> lane & 1) != 0 ? 0 : (int)sizes[lane];
            if ((uint)size > (uint)bytes)
                warp.FaultAt(FaultKind.Misuse, $"{size} source bytes of a copy of {bytes}.", lane, null);
            if (sources[lane] % (ulong)bytes != 0)
                warp.FaultAt(FaultKind.Misaligned, $"the source is not a multiple of {bytes}.", lane, sources[lane]);
            byte* place = warp.Block.Shared.BeginCopy(warp, destinations[lane], bytes, lane);
            byte* source = size == 0 ? null : from.Read(warp, sources[lane], size, lane);
            warp.Copies.Add(lane, place, source, bytes, size);
        }
    }
}

internal sealed class CommitGroup : Instruction
{
    public override void Execute(Warp warp, uint mask) => warp.Copies.Commit(mask);
}

internal sealed class WaitGroup(int pending) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        if (pending < 0)
            warp.Copies.WaitAll(warp, mask);
        else
            warp.Copies.Wait(warp, mask, pending);
    }
}

/// <summary>Arrives once the lane's copies are there: they are made at once, and the arrival with them.</summary>
internal sealed unsafe class CopiesArrive(Addressing at) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        ulong* addresses = stackalloc ulong[32];
        at.Addresses(warp, mask, addresses);
        warp.Copies.WaitAll(warp, mask);
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            BarrierInitialize.Find(warp, addresses[lane], lane).Arrive(warp, 1);
        }
    }
}

internal sealed unsafe class BarrierInitialize(Addressing at, Source? count) : Instruction
{
    public static TransactionBarrier Find(Warp warp, ulong address, int lane)
    {
        if (address > uint.MaxValue || !warp.Block.TransactionBarriers.TryGetValue((uint)address, out TransactionBarrier? barrier))
        {
            warp.FaultAt(FaultKind.Misuse, "there is no initialized mbarrier.", lane, address);
            throw new InvalidOperationException();
        }

        return barrier;
    }

    public override void Execute(Warp warp, uint mask)
    {
        ulong* addresses = stackalloc ulong[32];
        at.Addresses(warp, mask, addresses);
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            warp.Block.Shared.Write(warp, addresses[lane], 8, lane);
            if (count is not { } source)
            {
                if (!warp.Block.TransactionBarriers.Remove((uint)addresses[lane]))
                    Find(warp, addresses[lane], lane);
                continue;
            }

            warp.Row(source, mask);
            ulong expected = warp.Lane(source, lane);
            if (expected is 0 or > 0xfffff)
                warp.FaultAt(FaultKind.Misuse, $"an mbarrier for {expected} arrivals.", lane, addresses[lane]);
            warp.Block.TransactionBarriers[(uint)addresses[lane]] = new TransactionBarrier((int)expected);
        }
    }
}

internal sealed unsafe class BarrierArrive(Target to, Addressing at, Source? bytes, Source? count) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        ulong* addresses = stackalloc ulong[32];
        at.Addresses(warp, mask, addresses);
        if (bytes is { } announced)
            warp.Row(announced, mask);
        if (count is { } arrivals)
            warp.Row(arrivals, mask);
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            TransactionBarrier barrier = BarrierInitialize.Find(warp, addresses[lane], lane);
            warp.Block.Shared.Touch(warp, addresses[lane], lane);
            int phase = barrier.Phase;
            if (bytes is { } b)
                barrier.Expect((long)warp.Lane(b, lane));
            if (count is { } c)
                barrier.Arrive(warp, (int)warp.Lane(c, lane));
            if (to.Offset >= 0)
                warp.SetLane(to, lane, (ulong)phase);
        }

        if (to.Offset >= 0)
            warp.Written[to.Slot] |= mask;
    }
}

/// <summary><c>mbarrier.test_wait</c>, <c>try_wait</c>: whether a phase has ended. Lets others run, as it is polled.</summary>
internal sealed unsafe class BarrierWait(int p, Addressing at, Source phase, bool parity) : Instruction
{
    public override Flow Flow => Flow.Yield;

    public override void Execute(Warp warp, uint mask)
    {
        ulong* addresses = stackalloc ulong[32];
        at.Addresses(warp, mask, addresses);
        warp.Row(phase, mask);
        uint done = 0;
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            TransactionBarrier barrier = BarrierInitialize.Find(warp, addresses[lane], lane);
            warp.Block.Shared.Touch(warp, addresses[lane], lane);
            barrier.Poll();
            ulong asked = warp.Lane(phase, lane);
            if (parity && asked > 1)
                warp.FaultAt(FaultKind.Misuse, $"the parity is {asked}.", lane, null);
            if (parity ? (barrier.Phase & 1) != (int)asked : (ulong)barrier.Phase > asked)
            {
                done |= 1U << lane;
                Memory.SharedMemory.Acquire(warp, barrier.Released);
            }
        }

        warp.SetPredicate(p, done, mask);
    }
}

/// <summary><c>cp.async.bulk.prefetch.L2</c>: moves nothing that could be seen, but the range must be there.</summary>
internal sealed unsafe class PrefetchBulk(Addressing from, Source size) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        ulong* addresses = stackalloc ulong[32];
        from.Addresses(warp, mask, addresses);
        warp.Row(size, mask);
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            ulong bytes = warp.Lane(size, lane);
            if (bytes % 16 != 0 || bytes is 0 or > int.MaxValue || addresses[lane] % 16 != 0)
                warp.FaultAt(FaultKind.Misaligned, $"a bulk prefetch of {bytes} bytes: size and address are multiples of 16.", lane, addresses[lane]);
            from.Check(warp, addresses[lane], (int)bytes, lane);
        }
    }
}

/// <summary><c>cp.async.bulk</c> from global to shared memory, complete when its mbarrier says so.</summary>
internal sealed unsafe class CopyBulk(Addressing to, Addressing from, Source size, Addressing barrier) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        ulong* destinations = stackalloc ulong[32];
        ulong* sources = stackalloc ulong[32];
        ulong* barriers = stackalloc ulong[32];
        to.Addresses(warp, mask, destinations);
        from.Addresses(warp, mask, sources);
        barrier.Addresses(warp, mask, barriers);
        warp.Row(size, mask);
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            ulong bytes = warp.Lane(size, lane);
            if (bytes % 16 != 0 || bytes == 0 || bytes > (ulong)warp.Block.Shared.Bytes)
                warp.FaultAt(FaultKind.Misaligned, $"a bulk copy of {bytes} bytes.", lane, destinations[lane]);
            if (sources[lane] % 16 != 0 || destinations[lane] % 16 != 0)
                warp.FaultAt(FaultKind.Misaligned, "a bulk copy's addresses are multiples of 16.", lane, sources[lane] % 16 != 0 ? sources[lane] : destinations[lane]);
            byte* source = from.Read(warp, sources[lane], (int)bytes, lane);
            byte* place = warp.Block.Shared.BeginCopy(warp, destinations[lane], 16, lane);
            for (ulong at = 16; at < bytes; at += 16)
                warp.Block.Shared.BeginCopy(warp, destinations[lane] + at, 16, lane);
            BarrierInitialize.Find(warp, barriers[lane], lane).Add(warp, place, source, (int)bytes);
            warp.Block.BytesLoaded += (long)bytes;
        }
    }
}
