using Qwen.Runtime.Backends;
using Qwen.Runtime.Cache;

namespace Qwen.Runtime.Scheduling;

/// <summary>The tokens of one answer, prompt included, and how far the model has read them. It owns its blocks of the cache.</summary>
public class Sequence : IDisposable
{
    private int[] _tokens; // what is there, then what is drafted
    private readonly BlockPool _pool;
    private readonly UInt128 _root;
    private UInt128 _parent; // of the next block that is entered in the prefix index
    private int _indexed; // leading blocks that have been

    /// <summary>A sequence that waits with its prompt.</summary>
    /// <param name="prompt">At least one token.</param>
    /// <param name="maxLength">Most tokens, prompt and answer together.</param>
    /// <param name="pool">Where its blocks come from.</param>
    /// <param name="root">What its first block hangs from in the prefix index: <see cref="PrefixIndex.Root"/>.</param>
    public Sequence(IReadOnlyList<int> prompt, int maxLength, BlockPool pool, UInt128 root = default)
    {
        ArgumentOutOfRangeException.ThrowIfZero(prompt.Count);
        ArgumentOutOfRangeException.ThrowIfLessThan(maxLength, prompt.Count);
        _tokens = [.. prompt];
        PromptLength = Length = prompt.Count;
        MaxLength = maxLength;
        Table = new BlockTable(pool, maxLength);
        _pool = pool;
        _root = _parent = root;
    }

    /// <summary>Tokens of the prompt.</summary>
    public int PromptLength { get; }

    /// <summary>Tokens so far.</summary>
    public int Length { get; private set; }

    /// <summary>Most tokens, prompt and answer together.</summary>
    public int MaxLength { get; }

    /// <summary>Leading tokens whose keys and values are in the cache.</summary>
    public int Computed { get; private set; }

    /// <summary>Tokens the model has yet to read: 1 while decoding.</summary>
    public int Pending => Length - Computed;

    /// <summary>Tokens after the last that are drafted, for the model to confirm.</summary>
    public int Drafted { get; private set; }

    /// <summary>Most tokens that may be drafted: after them there is still one to sample.</summary>
    public int DraftRoom => Math.Max(MaxLength - Length - 1, 0);

    /// <summary>The first position after which logits are wanted: the last token's.</summary>
    public virtual int LogitsFrom => Length - 1;

    /// <summary>May begin with blocks that others have computed.</summary>
    public virtual bool ReusesPrefix => true;

    /// <summary>Leading tokens that were in the cache when it first ran; null before.</summary>
    public int? CachedTokens { get; private set; }

    /// <summary>Goes before sequences of a higher number; among equals, first come, first served.</summary>
    public int Priority { get; init; }

    /// <summary>When it came: a number that counts up.</summary>
    public long Arrival { get; internal set; }

    /// <summary>Places it takes among the running: its own, and those of the sequences that will fork from it.</summary>
    public int Width { get; internal set; } = 1;

    /// <summary>It is not computed for now: nobody reads what it gives.</summary>
    public bool IsPaused { get; set; }

    /// <summary>Where its keys and values are.</summary>
    public BlockTable Table { get; }

    /// <summary>All tokens but the drafted.</summary>
    public ReadOnlySpan<int> Tokens => _tokens.AsSpan(0, Length);

    /// <summary>The next tokens the model reads, the drafted ones after the others.</summary>
    internal ReadOnlySpan<int> Upcoming => From(Computed);

    /// <summary>All tokens from a position on, the drafted ones included.</summary>
    internal ReadOnlySpan<int> From(int position) => _tokens.AsSpan(position, Length + Drafted - position);

    /// <summary>Drafts a further token.</summary>
    public void Draft(int token)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(Drafted, DraftRoom);
        _tokens[Length + Drafted++] = token;
    }

    /// <summary>Drafts a copy of the tokens from a position on; where they run into the draft, it goes on with itself.</summary>
    public void DraftCopy(int from, int count)
    {
        for (int i = 0; i < count; i++)
            Draft(_tokens[from + i]);
    }

    /// <summary>Gives up what is drafted.</summary>
    public void DropDraft() => Drafted = 0;

    /// <summary>Adds a sampled token; true if it is the one that was drafted. If not, what was drafted after it goes.</summary>
    public bool Append(int token)
    {
        bool isDrafted = Drafted > 0 && _tokens[Length] == token;
        Drafted = isDrafted ? Drafted - 1 : 0;
        _tokens[Length++] = token;
        return isDrafted;
    }

    /// <summary>The next tokens are read. Blocks that are full with them can be found by others from now on.</summary>
    public void Advance(int tokens)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(tokens, Pending);
        Computed += tokens;
        if (_pool.Prefixes is { } index)
            EnterFullBlocks(index);
    }

    /// <summary>Gets blocks for all tokens, those the prefix index has included; false, with none, if too few are free.</summary>
    internal bool TryStart()
    {
        // The last token is read in any case: its logits are wanted.
        int hits = _pool.Prefixes is not null && ReusesPrefix ? Table.Adopt(_root, Tokens[..^1]) : 0;
        if (!Table.TryGrow(Length))
        {
            Table.Clear();
            return false;
        }

        MakeRoom();
        _indexed = hits;
        if (hits > 0)
            _parent = Identity(hits - 1);
        Computed = hits * _pool.BlockSize;
        CachedTokens ??= Computed;
        return true;
    }

    /// <summary>Gets blocks for all tokens and drafts; without the drafts, if that is too much; false if even that is.</summary>
    internal bool TryGrow(List<BlockCopy> copies)
    {
        if (Drafted > 0 && Table.TryGrow(Length + Drafted, Computed, copies))
            return true;
        DropDraft();
        return Table.TryGrow(Length, Computed, copies);
    }

    /// <summary>Goes on from where <paramref name="parent"/> is, with its blocks.</summary>
    internal void ForkFrom(Sequence parent)
    {
        MakeRoom();
        Table.Share(parent.Table, parent.Computed);
        (Computed, CachedTokens, Arrival) = (parent.Computed, parent.CachedTokens, parent.Arrival);
        (_indexed, _parent) = (parent._indexed, parent._parent);
    }

    /// <summary>Gives up the cached state; all tokens will be read again.</summary>
    internal void Evict()
    {
        DropDraft();
        Table.Clear();
        Computed = _indexed = 0;
        _parent = _root;
    }

    /// <summary>Gives the blocks back.</summary>
    public void Dispose()
    {
        Table.Dispose();
        GC.SuppressFinalize(this);
    }

    // Once, when it runs: a queue of long contexts costs no memory, and appending a token never allocates.
    private void MakeRoom()
    {
        if (_tokens.Length < MaxLength)
            Array.Resize(ref _tokens, MaxLength);
    }

    private void EnterFullBlocks(PrefixIndex index)
    {
        int size = _pool.BlockSize;
        for (; (_indexed + 1) * size <= Computed; _indexed++)
        {
            ReadOnlySpan<int> tokens = _tokens.AsSpan(_indexed * size, size);
            int known = index.Find(_parent, tokens), own = BlockAt(_indexed);
            if (known < 0)
                index.Add(_parent, tokens, own);
            else if (known != own)
                Table.Replace(_indexed, known); // another sequence computed the same at the same time: one copy is enough
            _parent = Identity(_indexed);
        }
    }

    private unsafe int BlockAt(int index) => Table.Blocks[index];

    private UInt128 Identity(int index) => _pool.Prefixes!.Identity(BlockAt(index));
}
