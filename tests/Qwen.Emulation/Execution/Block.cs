using Qwen.Emulation.Instructions;
using Qwen.Emulation.Memory;
using Qwen.Emulation.Programs;
using Qwen.Native.Device;

namespace Qwen.Emulation.Execution;

/// <summary>A block of threads: its warps, shared memory and barriers. The object is used again for other blocks of the same shape.</summary>
internal sealed class Block : IDisposable
{
    private const int Slice = 8192;
    private readonly Warp[] _warps;
    private readonly Barrier[] _barriers = new Barrier[16];
    private readonly List<WarpgroupMultiply.Pending>[] _products;
    private long _counted;

    public Block(EntryProgram program, int threads, int sharedBytes)
    {
        Program = program;
        Threads = threads;
        Shared = new SharedMemory(sharedBytes);
        for (int i = 0; i < _barriers.Length; i++)
            _barriers[i] = new Barrier();
        _warps = new Warp[(threads + 31) / 32];
        for (int i = 0; i < _warps.Length; i++)
            _warps[i] = new Warp(this, i, program);
        _products = [.. Enumerable.Range(0, (_warps.Length + 3) / 4).Select(_ => new List<WarpgroupMultiply.Pending>())];
    }

    public EntryProgram Program { get; }

    public int Threads { get; }

    public int WarpCount => _warps.Length;

    public SharedMemory Shared { get; }

    public Dictionary<uint, TransactionBarrier> TransactionBarriers { get; } = [];

    public LaunchContext Launch { get; private set; } = null!;

    public Dim3 Index { get; private set; }

    public long Number { get; private set; }

    public long BytesLoaded { get; set; }

    public long BytesStored { get; set; }

    public void Start(LaunchContext launch, long number)
    {
        Launch = launch;
        Number = number;
        Index = new((int)(number % launch.GridSize.X), (int)(number / launch.GridSize.X % launch.GridSize.Y), (int)(number / launch.GridSize.X / launch.GridSize.Y));
        uint segment = Shared.Start();
        TransactionBarriers.Clear();
        foreach (Barrier barrier in _barriers)
            barrier.Clear();
        foreach (List<WarpgroupMultiply.Pending> products in _products)
            products.Clear();
        for (int i = 0; i < _warps.Length; i++)
        {
            int lanes = Math.Min(32, Threads - (i * 32));
            _warps[i].Start(lanes == 32 ? uint.MaxValue : (1U << lanes) - 1, segment);
        }

        (BytesLoaded, BytesStored, _counted) = (0, 0, _warps.Sum(w => w.Executed));
    }

    /// <summary>Runs warp after warp; true when all have ended.</summary>
    /// <param name="rounds">How often each warp gets its turn before this gives up for now.</param>
    public bool Run(int rounds)
    {
        for (int round = 0; round < rounds; round++)
        {
            bool ran = false, left = false;
            long executed = 0;
            foreach (Warp warp in _warps)
            {
                if (warp.State == WarpState.Ready)
                {
                    warp.Run(Slice);
                    ran = true;
                }

                left |= warp.State != WarpState.Done;
                executed += warp.Executed;
            }

            if (!Launch.Spend(executed - _counted))
                _warps.First(w => w.State != WarpState.Done || !left).Fault(FaultKind.Overlong, "the launch executes more instructions than its budget.", 0, null);
            Launch.Statistics.Add(0, executed - _counted, 0, 0, 0, 0);
            _counted = executed;
            if (!left)
            {
                CheckGroups();
                Launch.Statistics.Add(0, 0, BytesLoaded, BytesStored, Shared.Wavefronts, Shared.Conflicts);
                return true;
            }

            if (!ran)
                FaultStuck();
        }

        return false;
    }

    /// <summary>A warp comes to barrier <paramref name="id"/>, for <paramref name="threads"/> threads (0 for all of the block).</summary>
    /// <param name="warp">The warp.</param>
    /// <param name="id">The barrier.</param>
    /// <param name="threads">Threads it is for.</param>
    /// <param name="wait">Whether the warp waits, or only arrives.</param>
    public void Arrive(Warp warp, int id, int threads, bool wait)
    {
        int expected = threads == 0 ? _warps.Length : threads / 32;
        if (threads % 32 != 0 || expected > _warps.Length)
            warp.Fault(FaultKind.Misuse, $"a barrier for {threads} threads is not for whole warps of a block of {Threads}.", 0, null);
        Barrier barrier = _barriers[id];
        if (barrier.Arrived.Count > 0 && barrier.Expected != expected)
            warp.Fault(FaultKind.DivergentBarrier, $"barrier {id} is for {expected * 32} threads here and for {barrier.Expected * 32} where others wait.", 0, null);
        barrier.Expected = expected;
        if (barrier.Arrived.Any(a => a.Warp == warp))
            warp.Fault(FaultKind.Misuse, $"the warp arrives twice at barrier {id}.", 0, null);
        barrier.Arrived.Add((warp, wait));
        if (wait)
            warp.State = WarpState.AtBarrier;
        if (barrier.Arrived.Count < expected)
            return;
        Shared.Synchronize(barrier.Arrived);
        foreach ((Warp arrived, bool waits) in barrier.Arrived)
        {
            if (waits) // one that went on may wait at another barrier by now
                arrived.State = WarpState.Ready;
        }

        barrier.Clear();
    }

    /// <summary>A warp begins a product, the number-th of its own: that of each warp of the group must be the same.</summary>
    public void Issue(Warp warp, int number, WarpgroupMultiply.Pending product)
    {
        List<WarpgroupMultiply.Pending> products = _products[warp.Index / 4];
        if (number == products.Count)
            products.Add(product);
        else if (!products[number].IsLike(product))
            warp.Fault(FaultKind.Misuse, $"another warp of the group has a different product here: that in line {products[number].Instruction.Line}, or with another descriptor.", 0, null);
    }

    /// <summary>Up to which segment a warp's writes are seen by tensor cores and copy engine.</summary>
    public uint Fenced(int warp) => _warps[warp].Fenced;

    public void Dispose()
    {
        foreach (Warp warp in _warps)
            warp.Dispose();
        Shared.Dispose();
    }

    private void CheckGroups()
    {
        if (_warps.Sum(w => w.MaxRegisters) > _warps.Length * Program.Registers)
            _warps[^1].Fault(FaultKind.Deadlock, $"the warps ask for {_warps.Sum(w => w.MaxRegisters) * 32} registers by setmaxnreg, of {_warps.Length * Program.Registers * 32} that the block begins with: some wait for ever.", 0, null);
        foreach (Warp warp in _warps)
        {
            if (warp.Products.Issued != _products[warp.Index / 4].Count)
                warp.Fault(FaultKind.Misuse, $"the warp took part in {warp.Products.Issued} of the {_products[warp.Index / 4].Count} products of its group.", 0, null);
        }
    }

    private void FaultStuck()
    {
        Warp stuck = _warps.First(w => w.State == WarpState.AtBarrier);
        int done = _warps.Count(w => w.State == WarpState.Done);
        if (done > 0)
            stuck.Fault(FaultKind.DivergentBarrier, $"{done} of {_warps.Length} warps have ended and never reach the barrier.", 0, null);
        Warp? other = _warps.FirstOrDefault(w => w.State == WarpState.AtBarrier && w.Current != stuck.Current);
        stuck.Fault(FaultKind.Deadlock, $"no warp can go on{(other is null ? "" : $": others wait in line {other.Current!.Line}")}.", 0, null);
    }

    private sealed class Barrier
    {
        public List<(Warp Warp, bool Waits)> Arrived { get; } = [];

        public int Expected { get; set; }

        public void Clear() => Arrived.Clear();
    }
}
