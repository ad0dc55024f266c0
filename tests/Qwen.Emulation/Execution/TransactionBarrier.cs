namespace Qwen.Emulation.Execution;

/// <summary>An <c>mbarrier</c> object: a phase ends when all arrivals came and all announced bytes arrived (PTX ISA, "mbarrier").</summary>
internal sealed unsafe class TransactionBarrier(int expected)
{
    private readonly List<(Warp Warp, nint To, nint From, int Bytes)> _copies = [];
    private uint[] _gathered = new uint[32];
    private uint[] _released = new uint[32];

    public int Expected { get; } = expected;

    public int Arrivals { get; private set; } = expected;

    public long Bytes { get; private set; }

    /// <summary>Phases that ended.</summary>
    public int Phase { get; private set; }

    /// <summary>What came before the arrivals of the phase that ended last.</summary>
    public ReadOnlySpan<uint> Released => _released;

    public void Expect(long bytes) => Bytes += bytes;

    public void Arrive(Warp warp, int count)
    {
        if (count > Arrivals)
            warp.Fault(FaultKind.Misuse, $"{count} arrivals at a barrier that waits for {Arrivals}.", 0, null);
        warp.Block.Shared.Release(warp, _gathered);
        Arrivals -= count;
        Turn();
    }

    /// <summary>An asynchronous copy that will complete on this barrier.</summary>
    public void Add(Warp warp, byte* to, byte* from, int bytes) => _copies.Add((warp, (nint)to, (nint)from, bytes));

    /// <summary>Somebody looks: copies happen now, as late as the rules allow.</summary>
    public void Poll()
    {
        foreach ((Warp warp, nint to, nint from, int bytes) in _copies)
        {
            warp.Block.Shared.BeginEngine(warp);
            new ReadOnlySpan<byte>((void*)from, bytes).CopyTo(new Span<byte>((void*)to, bytes));
            warp.Block.Shared.Complete(warp, (byte*)to, bytes);
            warp.Block.Shared.Release(warp, _gathered);
            Bytes -= bytes;
        }

        _copies.Clear();
        Turn();
    }

    private void Turn()
    {
        if (Arrivals > 0 || Bytes != 0 || _copies.Count > 0)
            return;
        (_gathered, _released) = (_released, _gathered);
        Array.Clear(_gathered);
        Arrivals = Expected;
        Phase++;
    }
}
