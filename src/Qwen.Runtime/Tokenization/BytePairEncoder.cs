using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Qwen.Runtime.Tokenization;

/// <summary>Merges the bytes of one word into tokens, the earliest merge first (Sennrich et al., 2016). Scratch memory for one thread.</summary>
internal sealed class BytePairEncoder(int[] byteTokens, MergeTable merges)
{
    private const int ShortWord = 64; // above, a heap beats looking at every pair for every merge
    private const int CacheBits = 14, CachedBytes = 16, CachedTokens = 4;

    private readonly CacheEntry[] _cache = new CacheEntry[1 << CacheBits];
    private readonly int[] _tokens = new int[ShortWord], _ranks = new int[ShortWord], _merged = new int[ShortWord];
    private readonly PriorityQueue<(int Left, int LeftToken, int RightToken, int Merged), (int Rank, int Left)> _queue = new();
    private int[] _links = [];

    /// <summary>Writes the tokens of a word; as many as fit. Returns their number, which may be more.</summary>
    public int Encode(ReadOnlySpan<byte> word, Span<int> destination)
    {
        if (word.Length == 1)
        {
            if (!destination.IsEmpty)
                destination[0] = byteTokens[word[0]];
            return 1;
        }

        if (word.Length > CachedBytes)
            return word.Length <= ShortWord ? Short(word, destination) : Long(word, destination);

        // Most words of a text are a few thousand short ones: a direct-mapped cache, compared by all their bytes.
        UInt128 key = default;
        word.CopyTo(MemoryMarshal.AsBytes(new Span<UInt128>(ref key)));
        ulong mixed = ((ulong)key ^ ((ulong)(key >> 64) * 0xff51afd7ed558ccd) ^ (ulong)word.Length) * 0x9e3779b97f4a7c15;
        ref CacheEntry entry = ref _cache[mixed >> (64 - CacheBits)];
        if (entry.Bytes == key && entry.Length == word.Length)
        {
            for (int i = 0; i < Math.Min(entry.Count, destination.Length); i++)
                destination[i] = entry.Tokens[i];
            return entry.Count;
        }

        int count = Short(word, destination);
        if (count <= CachedTokens)
        {
            entry.Bytes = key;
            entry.Length = word.Length;
            entry.Count = count;
            _tokens.AsSpan(0, count).CopyTo(entry.Tokens);
        }

        return count;
    }

    private int Short(ReadOnlySpan<byte> word, Span<int> destination)
    {
        int count = word.Length;
        int[] tokens = _tokens, ranks = _ranks, merged = _merged;
        for (int i = 0; i < count; i++)
            tokens[i] = byteTokens[word[i]];
        for (int i = 0; i < count - 1; i++)
            (ranks[i], merged[i]) = merges.Find(tokens[i], tokens[i + 1]);
        while (count > 1)
        {
            int best = 0;
            for (int i = 1; i < count - 1; i++)
            {
                if (ranks[i] < ranks[best])
                    best = i;
            }

            if (ranks[best] == int.MaxValue)
                break;
            tokens[best] = merged[best];
            count--;
            for (int i = best + 1; i < count; i++)
            {
                tokens[i] = tokens[i + 1];
                (ranks[i], merged[i]) = (ranks[i + 1], merged[i + 1]);
            }

            if (best > 0)
                (ranks[best - 1], merged[best - 1]) = merges.Find(tokens[best - 1], tokens[best]);
            if (best < count - 1)
                (ranks[best], merged[best]) = merges.Find(tokens[best], tokens[best + 1]);
        }

        tokens.AsSpan(0, Math.Min(count, destination.Length)).CopyTo(destination);
        return count;
    }

    /// <summary>The same by a heap of pairs over a linked list: n log n, where a long run of one letter would take n squared.</summary>
    private int Long(ReadOnlySpan<byte> word, Span<int> destination)
    {
        int length = word.Length;
        if (_links.Length < 3 * length)
            _links = new int[3 * length];
        Span<int> tokens = _links.AsSpan(0, length), next = _links.AsSpan(length, length), previous = _links.AsSpan(2 * length, length);
        _queue.Clear();
        for (int i = 0; i < length; i++)
        {
            tokens[i] = byteTokens[word[i]];
            next[i] = i + 1 < length ? i + 1 : -1;
            previous[i] = i - 1;
        }

        for (int i = 0; i + 1 < length; i++)
            Enqueue(i, tokens[i], tokens[i + 1]);
        while (_queue.TryDequeue(out (int Left, int LeftToken, int RightToken, int Merged) pair, out _))
        {
            int right = next[pair.Left];
            if (tokens[pair.Left] != pair.LeftToken || right < 0 || tokens[right] != pair.RightToken)
                continue; // one of them has been merged since
            tokens[pair.Left] = pair.Merged;
            tokens[right] = -1;
            next[pair.Left] = next[right];
            if (next[right] >= 0)
            {
                previous[next[right]] = pair.Left;
                Enqueue(pair.Left, pair.Merged, tokens[next[right]]);
            }

            if (previous[pair.Left] >= 0)
                Enqueue(previous[pair.Left], tokens[previous[pair.Left]], pair.Merged);
        }

        int count = 0;
        for (int i = 0; i >= 0; i = next[i], count++)
        {
            if (count < destination.Length)
                destination[count] = tokens[i];
        }

        return count;
    }

    private void Enqueue(int left, int leftToken, int rightToken)
    {
        (int rank, int merged) = merges.Find(leftToken, rightToken);
        if (rank != int.MaxValue)
            _queue.Enqueue((left, leftToken, rightToken, merged), (rank, left));
    }

    private struct CacheEntry
    {
        public UInt128 Bytes;
        public int Length, Count;
        public TokenList Tokens;
    }

    [InlineArray(CachedTokens)]
    private struct TokenList
    {
        private int _first;
    }
}
