using Qwen.Runtime.Cache;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Speculation;

/// <summary>Guesses with a smaller model (Leviathan et al., ICML 2023), which reads the same tokens into a cache of its own and goes on from them, all sequences in one batch.</summary>
internal sealed class ModelDrafter : IDrafter
{
    private readonly LoadedModel _model;
    private readonly ModelRunner _runner;
    private readonly BlockPool _pool;
    private readonly Batch _batch;
    private readonly SamplerWorkspace _sampling;
    private readonly Dictionary<Generation, Context> _contexts;
    private readonly List<(Generation Generation, int Row)> _rows;
    private readonly int _tokens;

    /// <summary>A drafter that guesses up to <paramref name="tokens"/> tokens.</summary>
    /// <param name="model">The smaller model; disposed with the drafter.</param>
    /// <param name="tokens">Most tokens guessed at once.</param>
    public ModelDrafter(LoadedModel model, int tokens)
    {
        _model = model;
        _runner = new ModelRunner(model);
        _tokens = tokens;
        _pool = new BlockPool(model.KvBlocks, model.BlockSize);
        _batch = new Batch(model.Options.MaxBatchedTokens, model.Options.MaxSequences, model.Options.MaxLogitRows);
        _sampling = new SamplerWorkspace(model.Config.VocabularySize);
        _contexts = new Dictionary<Generation, Context>(model.Options.MaxSequences);
        _rows = new List<(Generation, int)>(model.Options.MaxSequences);
    }

    /// <summary>Loads the smaller model, for drafting for a larger one.</summary>
    /// <exception cref="InvalidRequestException">Their tokens are not the same.</exception>
    public static ModelDrafter Load(LoadedModel target, SpeculationOptions options, IProgress<LoadProgress>? progress, CancellationToken cancellation)
    {
        LoadedModel draft = LoadedModel.Load(options.DraftModel, target.Options with { Speculation = null, MaxModelLength = null, KvCacheBytes = null, ChatTemplate = null, RopeScaling = null, Profile = false }, progress, cancellation);
        int count = target.Tokenizer.VocabularySize;
        for (int id = 0; id < count; id++)
        {
            if (draft.Tokenizer.VocabularySize == count && draft.Tokenizer.GetBytes(id).SequenceEqual(target.Tokenizer.GetBytes(id)))
                continue;
            string difference = draft.Tokenizer.VocabularySize == count ? $"token {id} is another one" : $"it has {draft.Tokenizer.VocabularySize} tokens, not {count}";
            draft.Dispose();
            throw new InvalidRequestException($"The draft model {options.DraftModel} can't guess for {target.Path}: {difference}.");
        }

        return new ModelDrafter(draft, options.Tokens);
    }

    public void Draft(List<Generation> generations)
    {
        foreach (Generation generation in generations)
            Begin(generation);
        // A first step reads what is new, and as much of what is not read at all as fits beside it: a long prompt takes several calls.
        FillWithNew(generations);
        while (_batch.TokenCount > 0)
        {
            _runner.Forward(_batch);
            foreach ((Generation generation, int row) in _rows)
                generation.Draft(generation.Sampler.Draft(_runner.Logits(row), _sampling));
            FillWithDrafts();
        }
    }

    public void Release(Generation generation)
    {
        if (_contexts.Remove(generation, out Context? context))
            context.Table.Dispose();
    }

    public void Dispose()
    {
        foreach (Context context in _contexts.Values)
            context.Table.Dispose();
        _batch.Dispose();
        _model.Dispose();
    }

    private void Begin(Generation generation)
    {
        if (!_contexts.TryGetValue(generation, out Context? context))
            _contexts[generation] = context = new Context(new BlockTable(_pool, Math.Min(generation.MaxLength, _model.MaxModelLength)));
        // Of its guesses it has read only those hold that came true: the sequence's last token is new in any case.
        context.Read = Math.Min(context.Read, generation.Length - 1);
        generation.Sampler.BeginDraft();
    }

    private void FillWithNew(List<Generation> generations)
    {
        _batch.Clear();
        _rows.Clear();
        foreach (Generation generation in generations)
        {
            if (generation.Length - _contexts[generation].Read <= _tokens + 1)
                Add(generation);
        }

        foreach (Generation generation in generations)
        {
            if (generation.Length - _contexts[generation].Read > _tokens + 1)
                Add(generation);
        }
    }

    private void FillWithDrafts()
    {
        _batch.Clear();
        int rows = _rows.Count;
        for (int i = 0; i < rows; i++)
        {
            if (_rows[i].Generation.Drafted < Most(_rows[i].Generation))
                Add(_rows[i].Generation);
        }

        _rows.RemoveRange(0, rows);
    }

    private int Most(Generation generation) => Math.Min(Math.Min(_tokens, generation.DraftLimit), Math.Min(generation.DraftRoom, _model.MaxModelLength - generation.Length));

    /// <summary>Adds what a sequence has that is not read, as far as there is room.</summary>
    private void Add(Generation generation)
    {
        Context context = _contexts[generation];
        ReadOnlySpan<int> unread = generation.From(context.Read);
        int tokens = Math.Min(unread.Length, _batch.MaxTokens - _batch.TokenCount);
        if (tokens == 0 || Most(generation) <= 0)
            return;
        if (!context.Table.TryGrow(context.Read + tokens))
        {
            context.Table.Clear(); // leaves its blocks to the others
            context.Read = 0;
            return;
        }

        bool isWhole = tokens == unread.Length;
        int row = _batch.Add(unread[..tokens], context.Read, context.Table, isWhole);
        context.Read += tokens;
        if (isWhole)
            _rows.Add((generation, row));
    }

    /// <summary>What the small model has read of a sequence.</summary>
    private sealed class Context(BlockTable table)
    {
        public BlockTable Table { get; } = table;

        public int Read { get; set; }
    }
}
