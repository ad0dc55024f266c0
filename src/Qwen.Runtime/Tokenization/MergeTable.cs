using System.Numerics;

namespace Qwen.Runtime.Tokenization;

/// <summary>Which pairs of tokens merge, how early, and into what: an open-addressing hash table of (left, right).</summary>
internal sealed class MergeTable
{
    private readonly ulong[] _pairs; // left << 32 | right, plus one: 0 is free
    private readonly (int Rank, int Merged)[] _merges;
    private readonly int _shift;

    public MergeTable(int count)
    {
        int size = (int)BitOperations.RoundUpToPowerOf2((uint)Math.Max(count, 8) * 2);
        _shift = 64 - BitOperations.Log2((uint)size);
        _pairs = new ulong[size];
        _merges = new (int, int)[size];
    }

    /// <summary>Adds a pair; an earlier one stays.</summary>
    public void Add(int left, int right, int rank, int merged)
    {
        ulong pair = Key(left, right);
        int slot = Slot(pair);
        while (_pairs[slot] != 0)
        {
            if (_pairs[slot] == pair)
                return;
            slot = (slot + 1) & (_pairs.Length - 1);
        }

        _pairs[slot] = pair;
        _merges[slot] = (rank, merged);
    }

    /// <summary>Rank and result of merging a pair; rank <see cref="int.MaxValue"/> where it does not merge.</summary>
    public (int Rank, int Merged) Find(int left, int right)
    {
        ulong pair = Key(left, right);
        for (int slot = Slot(pair); _pairs[slot] != 0; slot = (slot + 1) & (_pairs.Length - 1))
        {
            if (_pairs[slot] == pair)
                return _merges[slot];
        }

        return (int.MaxValue, -1);
    }

    private static ulong Key(int left, int right) => (((ulong)(uint)left << 32) | (uint)right) + 1;

    private int Slot(ulong pair) => (int)((pair * 0x9e3779b97f4a7c15) >> _shift);
}
