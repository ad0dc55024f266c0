using System.Security.Cryptography;
using System.Text;

namespace Qwen.Runtime.Cache;

/// <summary>
/// Finds full blocks by the tokens in them and everything before them. A block is entered under the identity of the block before it and
/// a hash of its own tokens; on a hit the tokens themselves are compared. Identities are never used twice, so a hit is exact whatever
/// the hash: a collision costs a hit and never gives a wrong one.
/// </summary>
/// <remarks>
/// The first block hangs from a root, which the salt chooses: requests with different salts never share a block, nor learn from the
/// time an answer takes what others asked (vLLM's <c>cache_salt</c>). Entries never outnumber the blocks, and nothing is allocated.
/// </remarks>
public sealed class PrefixIndex
{
    private readonly Dictionary<Key, int> _blocks;
    private readonly Key[] _keys;
    private readonly long[] _identities; // 0: not in the index
    private readonly int[] _tokens; // [blocks, blockSize]
    private readonly int _blockSize;
    private readonly ulong _seed = BitConverter.ToUInt64(RandomNumberGenerator.GetBytes(sizeof(ulong)));
    private long _lastIdentity;

    /// <summary>An empty index for blocks below <paramref name="blocks"/>.</summary>
    public PrefixIndex(int blocks, int blockSize)
    {
        _blockSize = blockSize;
        _blocks = new Dictionary<Key, int>(blocks);
        _keys = new Key[blocks];
        _identities = new long[blocks];
        _tokens = new int[checked(blocks * blockSize)];
    }

    /// <summary>Blocks that can be found.</summary>
    public int Count => _blocks.Count;

    /// <summary>What the first block of a sequence hangs from.</summary>
    /// <param name="salt">Null for the root that all without a salt share.</param>
    public static UInt128 Root(string? salt) =>
        // The highest bit tells roots from blocks.
        salt is null ? UInt128.Zero : BitConverter.ToUInt128(SHA256.HashData(Encoding.UTF8.GetBytes(salt))) | (UInt128.One << 127);

    /// <summary>Whether a block can be found.</summary>
    public bool Contains(int block) => _identities[block] != 0;

    /// <summary>What the block after this one hangs from.</summary>
    public UInt128 Identity(int block) => (UInt128)_identities[block];

    /// <summary>The block with these tokens after that block or root; -1 if there is none.</summary>
    public int Find(UInt128 parent, ReadOnlySpan<int> tokens) =>
        _blocks.TryGetValue(new Key(parent, Hash(tokens)), out int block) && TokensOf(block).SequenceEqual(tokens) ? block : -1;

    /// <summary>Enters a block, which must not be in the index, with the tokens it holds.</summary>
    public void Add(UInt128 parent, ReadOnlySpan<int> tokens, int block)
    {
        var key = new Key(parent, Hash(tokens));
        if (_blocks.TryGetValue(key, out int other))
            Remove(other); // other tokens with the same hash: the newer ones are kept
        _blocks.Add(key, block);
        _keys[block] = key;
        _identities[block] = ++_lastIdentity;
        tokens.CopyTo(TokensOf(block));
    }

    /// <summary>Forgets a block, if it is there.</summary>
    public void Remove(int block)
    {
        if (!Contains(block))
            return;
        _blocks.Remove(_keys[block]);
        _identities[block] = 0;
    }

    private Span<int> TokensOf(int block) => _tokens.AsSpan(block * _blockSize, _blockSize);

    // Multiply and fold (wyhash's mixing), from a random start, so that nobody can aim at a bucket.
    private ulong Hash(ReadOnlySpan<int> tokens)
    {
        ulong hash = _seed;
        foreach (int token in tokens)
        {
            UInt128 product = (UInt128)(hash ^ (uint)token) * 0x9e3779b97f4a7c15;
            hash = (ulong)product ^ (ulong)(product >> 64) ^ 0xa0761d6478bd642f;
        }

        return hash;
    }

    private readonly record struct Key(UInt128 Parent, ulong Hash);
}
