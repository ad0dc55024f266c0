namespace Qwen.Native.Ptx;

/// <content>
/// Copies from global to shared memory that run beside the arithmetic. A thread's copies form groups; after waiting for its groups, a barrier makes
/// them seen by others. Copies of S stages: wait(S - 2), barrier, start the copy of tile i + S - 1 (commit also when there is none), compute tile i.
/// </content>
public sealed partial class PtxBuilder
{
    /// <summary>Starts a copy of 4, 8 or 16 bytes, both addresses aligned to that; 16 bytes go past L1.</summary>
    /// <param name="to">Where to.</param>
    /// <param name="from">Where from.</param>
    /// <param name="bytes">4, 8 or 16.</param>
    /// <param name="valid">Bytes that are read; the others are zeros. Null for all. The address must be one that can be read in any case.</param>
    /// <param name="when">Copy only where this holds; else shared memory stays as it is.</param>
    /// <param name="readAhead">L2 reads the 256 bytes around: for what is read from end to end.</param>
    public void CopyAsync(Shared to, Global from, int bytes, U32? valid = null, Pred? when = null, bool readAhead = false)
    {
        if (readAhead)
            Require(PtxFeature.CacheHints);
        string size = valid is { } v ? $", {v.Operand}" : "";
        Line($"{Guard(when)}cp.async.{(bytes == 16 ? "cg" : "ca")}.shared.global{(readAhead ? ".L2::256B" : "")} {to}, {from}, {bytes}{size};");
    }

    /// <summary>Ends a group of copies.</summary>
    public void CommitCopies() => Line("cp.async.commit_group;");

    /// <summary>Waits until at most <paramref name="pending"/> of the newest groups are under way.</summary>
    public void WaitForCopies(int pending) => Line($"cp.async.wait_group {pending};");

    /// <summary>An mbarrier (8 bytes, aligned to 8) for so many arrivals. One thread; then <see cref="FenceBarriers"/> and a barrier.</summary>
    public void InitializeBarrier(Shared barrier, int arrivals) => Line($"mbarrier.init.shared.b64 {barrier}, {arrivals};");

    /// <summary>Makes initialized mbarriers seen by the copy engine.</summary>
    public void FenceBarriers()
    {
        Require(PtxFeature.BulkCopy);
        Line("fence.mbarrier_init.release.cluster;");
        Line("fence.proxy.async;");
    }

    /// <summary>What this thread wrote to shared memory is seen by the copy engine and by products of warp groups.</summary>
    public void FenceAsyncProxy()
    {
        Require(PtxFeature.BulkCopy);
        Line("fence.proxy.async.shared::cta;");
    }

    /// <summary>Arrives.</summary>
    public void Arrive(Shared barrier, Pred? when = null)
    {
        Line($"{Guard(when)}mbarrier.arrive.shared.b64 {Variable<U64>().Operand}, {barrier};");
    }

    /// <summary>Waits until the phase of a parity is over.</summary>
    public void WaitBarrier(Shared barrier, U32 parity)
    {
        Require(PtxFeature.BulkCopy); // try_wait; test_wait would do before sm_90
        Pred done = Variable<Pred>();
        string again = NewLabel("wait");
        Label(again);
        Line($"mbarrier.try_wait.parity.shared.b64 {done.Operand}, {barrier}, {parity.Operand};");
        Line($"@!{done.Operand} bra {again};");
    }
}
