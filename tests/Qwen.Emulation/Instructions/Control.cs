using System.Numerics;
using Qwen.Emulation.Execution;
using Qwen.Emulation.Programs;

namespace Qwen.Emulation.Instructions;

/// <summary><c>bra</c>: the warp's loop does it.</summary>
internal sealed class Branch(int to, bool uniform) : Instruction
{
    public override Flow Flow => Flow.Branch;

    public int To { get; } = to;

    public bool IsUniform { get; } = uniform;

    /// <summary>Where lanes that part here meet again; -1 for nowhere.</summary>
    public int Meet { get; set; } = -1;

    public override void Execute(Warp warp, uint mask) => throw new InvalidOperationException("A branch is executed by the warp.");
}

/// <summary><c>ret</c>, <c>exit</c>.</summary>
internal sealed class Exit : Instruction
{
    public override Flow Flow => Flow.Exit;

    public override void Execute(Warp warp, uint mask) => throw new InvalidOperationException("An exit is executed by the warp.");
}

/// <summary><c>trap</c>.</summary>
internal sealed class Trap : Instruction
{
    public override void Execute(Warp warp, uint mask) => warp.Fault(FaultKind.Misuse, "the kernel stops itself with trap.", mask, null);
}

/// <summary><c>bar.sync</c>, <c>bar.arrive</c>.</summary>
internal sealed unsafe class BlockBarrier(Source id, Source threads, bool wait) : Instruction
{
    public override Flow Flow => Flow.Barrier;

    public override void Execute(Warp warp, uint mask)
    {
        warp.Row(id, mask);
        warp.Row(threads, mask);
        int first = BitOperations.TrailingZeroCount(mask);
        ulong which = warp.Lane(id, first), count = warp.Lane(threads, first);
        for (uint lanes = mask; lanes != 0; lanes &= lanes - 1)
        {
            int lane = BitOperations.TrailingZeroCount(lanes);
            if (warp.Lane(id, lane) != which || warp.Lane(threads, lane) != count)
                warp.FaultAt(FaultKind.DivergentBarrier, "lanes of the warp name different barriers.", lane, null);
        }

        if (which > 15)
            warp.FaultAt(FaultKind.Misuse, $"there is no barrier {which}.", first, null);
        if (count > 1024)
            warp.FaultAt(FaultKind.Misuse, $"a barrier for {count} threads.", first, null);
        warp.Block.Arrive(warp, (int)which, (int)count, wait);
    }
}

/// <summary>What has nothing to do here: fences, prefetches and hints. A machine that runs one instruction after the other is always in order.</summary>
internal sealed unsafe class Nothing(Source[] from, bool polls) : Instruction
{
    public override Flow Flow => polls ? Flow.Yield : Flow.Next;

    public override bool OrdersBlocks => polls;

    public override void Execute(Warp warp, uint mask)
    {
        foreach (Source source in from)
            warp.Row(source, mask);
    }
}

/// <summary><c>bar.warp.sync</c>: all the lanes named must come.</summary>
internal sealed unsafe class WarpBarrier(Source members) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        warp.Row(members, mask);
        WarpInstructions.CheckMembers(warp, mask, (uint)warp.Lane(members, BitOperations.TrailingZeroCount(mask)));
    }
}

/// <summary><c>fence.proxy.async</c>: what all lanes wrote to shared memory is seen by tensor cores and copy engine, where all execute it.</summary>
internal sealed class ProxyFence : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        if (mask == warp.Live)
            warp.Block.Shared.FenceProxy(warp);
    }
}

/// <summary><c>griddepcontrol.wait</c>: from here on the previous launch is complete.</summary>
internal sealed class GridWait : Instruction
{
    public override void Execute(Warp warp, uint mask) => warp.GridWaited = true;
}

/// <summary>Decodes control flow and synchronization (PTX ISA, "Control Flow Instructions", "Parallel Synchronization and Communication Instructions").</summary>
internal static class Control
{
    public static Instruction Branch(Decoder d)
    {
        bool uniform = d.Take("uni");
        d.Expect(1);
        return new Branch(d.LabelAt(0), uniform);
    }

    public static Instruction Return(Decoder d)
    {
        d.Take("uni");
        d.Expect(0);
        return new Exit();
    }

    public static Instruction Barrier(Decoder d)
    {
        d.Take("cta");
        if (d.Take("warp"))
        {
            if (!d.Take("sync"))
                throw d.Error("a barrier of a warp is .sync.");
            d.Expect(1);
            return new WarpBarrier(d.Read(0, Text.PtxType.B32));
        }

        string kind = d.TakeAny("sync", "arrive") ?? throw d.Error("only .sync and .arrive are known.");
        d.Take("aligned");
        d.Expect(kind == "arrive" ? 2 : 1, 2);
        return new BlockBarrier(d.Read(0, Text.PtxType.B32), d.Count > 1 ? d.Read(1, Text.PtxType.B32) : d.Layout.Zero, kind == "sync");
    }

    public static Instruction Fence(Decoder d)
    {
        d.TakeAny("sc", "acq_rel", "acquire", "release");
        bool known = d.TakeAny("cta", "gpu", "gl", "sys", "cluster") is not null;
        bool isProxy = d.Take("proxy") && d.Take("async");
        known |= isProxy;
        known |= d.Take("mbarrier_init");
        d.TakeAny("cluster", "cta", "gpu", "sys");
        d.TakeAny("global", "shared::cta", "shared::cluster", "async::generic");
        d.Expect(0);
        if (isProxy)
            return new ProxyFence();
        return known ? new Nothing([], polls: false) : throw d.Error("the fence has no scope.");
    }

    public static Instruction NanoSleep(Decoder d)
    {
        d.TakeType();
        d.Expect(1);
        return new Nothing([d.Read(0, Text.PtxType.B32)], polls: true);
    }

    public static Instruction GridControl(Decoder d)
    {
        d.Expect(0);
        return d.TakeAny("wait", "launch_dependents") switch
        {
            "wait" => new GridWait(),
            "launch_dependents" => new Nothing([], polls: false),
            _ => throw d.Error("the instruction needs .wait or .launch_dependents."),
        };
    }

    /// <summary><c>prefetch</c>, <c>applypriority</c>, <c>discard</c>: the address is computed, nothing is touched.</summary>
    public static Instruction Prefetch(Decoder d)
    {
        d.TakeHints();
        d.TakeAny("global", "local");
        d.TakeAny("L1", "L2");
        d.Expect(1, 2);
        return new Nothing([d.Address(0).Row], polls: false);
    }

    public static Instruction CreatePolicy(Decoder d)
    {
        d.TakeAny("fractional", "range");
        d.TakeHints();
        d.Take("b64");
        d.Expect(1, 2);
        return new PerLane(d.Write(0, Text.PtxType.B64), [], (_, _, _, _) => 0);
    }
}
