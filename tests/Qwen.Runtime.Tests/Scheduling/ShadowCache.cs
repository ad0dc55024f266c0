using Qwen.Runtime.Backends;
using Qwen.Runtime.Cache;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Tests.Scheduling;

/// <summary>
/// A cache that holds, for each slot, a hash of all tokens up to it, as keys and values depend on all tokens up to theirs. So a
/// sequence that reads a slot of another one's, or one that was overwritten, is found out.
/// </summary>
internal sealed class ShadowCache(BlockPool pool)
{
    private readonly ulong[] _slots = new ulong[pool.Blocks * pool.BlockSize];

    public void Copy(ReadOnlySpan<BlockCopy> copies)
    {
        foreach ((int from, int to) in copies)
            _slots.AsSpan(from * pool.BlockSize, pool.BlockSize).CopyTo(_slots.AsSpan(to * pool.BlockSize, pool.BlockSize));
    }

    /// <summary>Reads and writes what a step does for one sequence.</summary>
    public unsafe void Write(Batch batch, BatchSequence part, SimulatedSequence sequence)
    {
        for (int i = 0; i < part.Tokens; i++)
        {
            int row = part.FirstToken + i, position = batch.Positions[row], slot = Slot(part.Blocks, position), block = slot / pool.BlockSize;
            Check(position == part.FirstPosition + i && batch.Slots[row] == slot, "positions or slots are wrong");
            Check(pool.Holders(block) == 1, "a shared block is written");
            Check(pool.Prefixes?.Contains(block) != true, "a block that others may find is written");
            ulong before = position == 0 ? Start(sequence.Root) : _slots[Slot(part.Blocks, position - 1)];
            if (position > 0 && position <= sequence.Length)
                Check(before == HashAt(sequence, position - 1), "the token before is not this sequence's");
            _slots[slot] = Next(before, batch.Tokens[row]);
        }
    }

    /// <summary>Checks all that a sequence has cached.</summary>
    public unsafe void Verify(SimulatedSequence sequence)
    {
        ulong hash = Start(sequence.Root);
        for (int position = 0; position < sequence.Computed; position++)
        {
            hash = Next(hash, sequence.Tokens[position]);
            Check(_slots[Slot(sequence.Table.Blocks, position)] == hash, "the cache holds something else");
        }
    }

    /// <summary>The hash of the tokens up to a position, which also decides what the simulated model samples.</summary>
    public static ulong HashAt(SimulatedSequence sequence, int position)
    {
        ulong hash = Start(sequence.Root);
        for (int i = 0; i <= position; i++)
            hash = Next(hash, sequence.Tokens[i]);
        return hash;
    }

    public static void Check(bool isTrue, string otherwise)
    {
        if (!isTrue)
            throw new InvalidOperationException(otherwise);
    }

    private unsafe int Slot(int* blocks, int position) => (blocks[position / pool.BlockSize] * pool.BlockSize) + (position % pool.BlockSize);

    private static ulong Start(UInt128 root) => (ulong)root ^ 0x9e3779b97f4a7c15;

    private static ulong Next(ulong hash, int token)
    {
        ulong z = (hash ^ (uint)token) * 0xbf58476d1ce4e5b9;
        return z ^ (z >> 29);
    }
}
