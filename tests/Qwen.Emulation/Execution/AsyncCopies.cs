using Qwen.Emulation.Memory;

namespace Qwen.Emulation.Execution;

/// <summary>
/// The <c>cp.async</c> copies of a warp that were not waited for, by lane and group. A copy happens when it is waited for and not before, as
/// late as the rules allow; until then its destination may not be touched.
/// </summary>
internal sealed unsafe class AsyncCopies
{
    private struct Copy
    {
        public int Lane;
        public int Group;
        public nint To;
        public nint From;
        public int Bytes;
        public int SourceBytes;
    }

    private readonly int[] _group = new int[32];
    private readonly List<Copy> _copies = [];

    public bool Pending => _copies.Count > 0;

    public void Clear()
    {
        _copies.Clear();
        Array.Clear(_group);
    }

    public void Add(int lane, byte* to, byte* from, int bytes, int sourceBytes) => _copies.Add(
        new Copy { Lane = lane, Group = _group[lane], To = (nint)to, From = (nint)from, Bytes = bytes, SourceBytes = sourceBytes });

    /// <summary>Ends the group of each lane.</summary>
    public void Commit(uint mask)
    {
        for (int lane = 0; lane < 32; lane++)
            _group[lane] += (int)(mask >> lane & 1);
    }

    /// <summary>Completes all groups of the lanes but the latest <paramref name="pending"/>.</summary>
    public void Wait(Warp warp, uint mask, int pending) => Finish(warp, mask, lane => _group[lane] - pending);

    /// <summary>Completes all copies of the lanes, committed or not.</summary>
    public void WaitAll(Warp warp, uint mask) => Finish(warp, mask, _ => int.MaxValue);

    private void Finish(Warp warp, uint mask, Func<int, int> before)
    {
        int kept = 0;
        Span<int> limits = stackalloc int[32];
        for (int lane = 0; lane < 32; lane++)
            limits[lane] = (mask >> lane & 1) != 0 ? before(lane) : int.MinValue;
        Span<Copy> copies = CollectionsMarshalSpan();
        foreach (ref readonly Copy copy in copies)
        {
            if (copy.Group >= limits[copy.Lane])
            {
                copies[kept++] = copy;
                continue;
            }

            Span<byte> to = new((void*)copy.To, copy.Bytes);
            new ReadOnlySpan<byte>((void*)copy.From, copy.SourceBytes).CopyTo(to);
            to[copy.SourceBytes..].Clear();
            warp.Block.Shared.Complete(warp, (byte*)copy.To, copy.Bytes);
        }

        _copies.RemoveRange(kept, _copies.Count - kept);
    }

    private Span<Copy> CollectionsMarshalSpan() => System.Runtime.InteropServices.CollectionsMarshal.AsSpan(_copies);
}
