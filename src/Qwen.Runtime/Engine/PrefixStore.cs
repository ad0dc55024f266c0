using System.Globalization;
using Qwen.Runtime.Cache;
using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Engine;

/// <summary>A prefix whose blocks stay in the cache until it is deleted.</summary>
/// <param name="Id">Its name.</param>
/// <param name="Tokens">Tokens it was made of.</param>
/// <param name="CachedTokens">Tokens that are held: full blocks.</param>
/// <param name="Created">When it was pinned or restored.</param>
public sealed record PinnedPrefix(string Id, int Tokens, int CachedTokens, DateTimeOffset Created);

/// <summary>
/// Prefixes that are pinned: prompts that begin with one, under the same salt, need not read it, and no burst of other prompts evicts
/// it. Together they leave room for the longest sequence. They can be saved to disk and restored by the same model.
/// </summary>
public sealed class PrefixStore
{
    private const int MostPrefixes = 256;

    private readonly LoadedModel _model;
    private readonly EngineLoop _loop;
    private readonly List<Pin> _pins = []; // the loop's thread changes it, under its lock
    private readonly Lazy<string> _fingerprint;

    internal PrefixStore(LoadedModel model, EngineLoop loop)
    {
        _model = model;
        _loop = loop;
        _fingerprint = new Lazy<string>(() => ModelFingerprint.Of(model));
    }

    /// <summary>Blocks that pinned prefixes may hold together: all but those the longest sequence needs.</summary>
    public int MaxBlocks => _loop.Pool.Blocks - _loop.Pool.BlocksFor(_model.MaxModelLength);

    /// <summary>All that are pinned, the oldest first.</summary>
    public IReadOnlyList<PinnedPrefix> List()
    {
        lock (_pins)
            return [.. _pins.Where(p => p.IsWhole).Select(p => p.Info)];
    }

    /// <summary>Reads a prompt, unless it is cached, and holds its full blocks.</summary>
    /// <param name="prompt">Token ids.</param>
    /// <param name="request">Priority, timeout and salt; null for the defaults.</param>
    /// <param name="cancellation">Stops the reading.</param>
    /// <exception cref="InvalidRequestException">The prompt is shorter than a block or too long, or there is no room to hold it.</exception>
    /// <exception cref="InvalidOperationException">Prefix caching is off.</exception>
    public async Task<PinnedPrefix> PinAsync(IReadOnlyList<int> prompt, RequestOptions? request = null, CancellationToken cancellation = default)
    {
        ArgumentNullException.ThrowIfNull(prompt);
        RequestOptions options = (request ?? new RequestOptions()).Validated();
        CheckEnabled();
        _model.CheckPrompt(prompt);
        int blocks = prompt.Count / _model.BlockSize;
        if (blocks == 0)
            throw new InvalidRequestException($"A prefix of {prompt.Count} tokens fills no block of {_model.BlockSize}.");
        int[] tokens = [.. prompt.Take(blocks * _model.BlockSize)];
        UInt128 root = PrefixIndex.Root(options.CacheSalt);
        var pin = new Pin(tokens, root, new BlockTable(_loop.Pool, tokens.Length), new PinnedPrefix($"prefix-{Guid.NewGuid():N}", prompt.Count, tokens.Length, _model.Options.Clock.GetUtcNow()));
        await _loop.RunAsync(_ => CheckRoom(tokens, root)).ConfigureAwait(false);

        Exception? refused = null;
        SamplingParameters readOnly = new SamplingOptions { Temperature = 0 }.Resolve(GenerationDefaults.None, _model.Tokenizer.VocabularySize) with { MaxTokens = 0 };
        var reading = new Request(prompt, readOnly, options, _model.MaxModelLength, _model.EosTokenIds, _loop.Pool) { WhenRead = _ => refused = TryHold(pin) };
        _loop.Submit(reading);
        using (cancellation.UnsafeRegister(_ => _loop.Cancel(reading, cancellation), null))
            await reading.Stream.WaitAsync().ConfigureAwait(false);
        return refused is null ? pin.Info : throw refused;
    }

    /// <summary>Lets go of a prefix. Its blocks stay cached until they are needed. False if there is none of that name.</summary>
    public Task<bool> DeleteAsync(string id) => _loop.RunAsync(_ =>
    {
        Pin? pin = Find(id);
        if (pin is not null)
            Drop(pin);
        return pin is not null;
    });

    /// <summary>Writes a prefix to a file, whole or not at all.</summary>
    /// <param name="id">Its name.</param>
    /// <param name="path">The file; an older one is replaced.</param>
    /// <exception cref="KeyNotFoundException">There is none of that name.</exception>
    /// <exception cref="IOException">The file can't be written.</exception>
    public async Task SaveAsync(string id, string path)
    {
        // A holder of its own: the prefix may be deleted meanwhile.
        (int[] tokens, UInt128 root, BlockTable table) = await _loop.RunAsync(_ =>
        {
            Pin pin = Find(id) ?? throw new KeyNotFoundException($"There is no prefix {id}.");
            var held = new BlockTable(_loop.Pool, pin.Tokens.Length);
            held.Share(pin.Table, pin.Tokens.Length);
            return (pin.Tokens, pin.Root, held);
        }).ConfigureAwait(false);
        try
        {
            var header = new PrefixHeader(_fingerprint.Value, _model.Cache.Layout, _model.BlockSize, _model.Cache.BlockBytes, root.ToString("x32", CultureInfo.InvariantCulture), tokens);
            await PrefixFile.WriteAsync(path, header, (index, bytes) => _loop.RunAsync(_ =>
            {
                _model.Cache.ReadBlock(BlockAt(table, index), bytes);
                return true;
            })).ConfigureAwait(false);
        }
        finally
        {
            await ReleaseAsync(table).ConfigureAwait(false);
        }
    }

    /// <summary>Pins a prefix that was saved by the same model.</summary>
    /// <param name="path">The file.</param>
    /// <exception cref="InvalidDataException">The file is damaged, or of another model or cache layout.</exception>
    /// <exception cref="InvalidRequestException">There is no room to hold it.</exception>
    /// <exception cref="IOException">The file can't be read.</exception>
    public async Task<PinnedPrefix> RestoreAsync(string path)
    {
        CheckEnabled();
        Pin? pin = null;
        try
        {
            await PrefixFile.ReadAsync(
                path,
                async header => pin = await ReserveAsync(path, header).ConfigureAwait(false),
                (index, bytes) => _loop.RunAsync(_ =>
                {
                    _model.Cache.WriteBlock(BlockAt(pin!.Table, index), bytes);
                    return true;
                })).ConfigureAwait(false);
            return await _loop.RunAsync(_ => Enter(pin!)).ConfigureAwait(false);
        }
        catch when (pin is not null)
        {
            await _loop.RunAsync(_ => Drop(pin)).ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>Frees the tables, when the loop has ended.</summary>
    internal void Dispose()
    {
        foreach (Pin pin in _pins)
            pin.Table.Dispose();
    }

    private static unsafe int BlockAt(BlockTable table, int index) => table.Blocks[index];

    private void CheckEnabled()
    {
        if (!_model.Options.EnablePrefixCaching)
            throw new InvalidOperationException("Prefix caching is off.");
    }

    /// <summary>Holds a prefix that has just been read; what is wrong if that can't be.</summary>
    private InvalidRequestException? TryHold(Pin pin)
    {
        try
        {
            CheckRoom(pin.Tokens, pin.Root);
        }
        catch (InvalidRequestException e)
        {
            return e;
        }

        pin.Table.Adopt(pin.Root, pin.Tokens);
        pin.IsWhole = true;
        Add(pin);
        return null;
    }

    private async Task<Pin> ReserveAsync(string path, PrefixHeader header)
    {
        if (header.Model != _fingerprint.Value || header.Layout != _model.Cache.Layout || header.BlockSize != _model.BlockSize || header.BlockBytes != _model.Cache.BlockBytes)
            throw new InvalidDataException($"{path}: was saved by another model or with another cache: {header.Layout}, blocks of {header.BlockSize}; this one has {_model.Cache.Layout}, blocks of {_model.BlockSize}.");
        if (!UInt128.TryParse(header.Root, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out UInt128 root) || (root != 0 && root >> 127 == 0))
            throw new InvalidDataException($"{path}: '{header.Root}' is no root.");
        if (header.Tokens.FirstOrDefault(t => (uint)t >= (uint)_model.Tokenizer.VocabularySize, -1) is var wrong && wrong != -1)
            throw new InvalidDataException($"{path}: token {wrong} is outside the vocabulary.");
        var pin = new Pin(header.Tokens, root, new BlockTable(_loop.Pool, header.Tokens.Length), new PinnedPrefix($"prefix-{Guid.NewGuid():N}", header.Tokens.Length, header.Tokens.Length, _model.Options.Clock.GetUtcNow()));
        return await _loop.RunAsync(_ =>
        {
            CheckRoom(pin.Tokens, pin.Root);
            if (!pin.Table.TryGrow(pin.Tokens.Length))
                throw new InvalidRequestException($"The prefix needs {header.Blocks} blocks of the KV cache; {_loop.Pool.Free} are free now.");
            Add(pin);
            return pin;
        }).ConfigureAwait(false);
    }

    /// <summary>Lets others find blocks that were restored; where they are known already, one copy is enough.</summary>
    private PinnedPrefix Enter(Pin pin)
    {
        PrefixIndex index = _loop.Pool.Prefixes!;
        UInt128 parent = pin.Root;
        for (int i = 0; i < pin.Table.Count; i++)
        {
            ReadOnlySpan<int> tokens = pin.Tokens.AsSpan(i * _model.BlockSize, _model.BlockSize);
            int known = index.Find(parent, tokens);
            if (known < 0)
                index.Add(parent, tokens, BlockAt(pin.Table, i));
            else
                pin.Table.Replace(i, known);
            parent = index.Identity(BlockAt(pin.Table, i));
        }

        pin.IsWhole = true;
        return pin.Info;
    }

    /// <summary>Checks that a prefix may be held beside the others.</summary>
    private bool CheckRoom(int[] tokens, UInt128 root)
    {
        if (_pins.Count >= MostPrefixes)
            throw new InvalidRequestException($"{MostPrefixes} prefixes are pinned, the most that may be.");
        using var known = new BlockTable(_loop.Pool, tokens.Length);
        known.Adopt(root, tokens);
        HashSet<int> held = [.. _pins.SelectMany(p => BlocksOf(p.Table))];
        int already = BlocksOf(known).Count(held.Contains), needed = (tokens.Length / _model.BlockSize) - already;
        if (held.Count + needed > MaxBlocks)
            throw new InvalidRequestException($"The prefix needs {needed} more blocks; pinned prefixes hold {held.Count} of the {MaxBlocks} that the longest sequence leaves of {_loop.Pool.Blocks}.");
        return true;
    }

    private static IEnumerable<int> BlocksOf(BlockTable table) => Enumerable.Range(0, table.Count).Select(i => BlockAt(table, i));

    private Pin? Find(string id) => _pins.Find(p => p.Info.Id == id && p.IsWhole);

    private void Add(Pin pin)
    {
        lock (_pins)
            _pins.Add(pin);
    }

    private bool Drop(Pin pin)
    {
        lock (_pins)
            _pins.Remove(pin);
        pin.Table.Dispose();
        return true;
    }

    private async Task ReleaseAsync(BlockTable table)
    {
        await _loop.RunAsync(_ =>
        {
            table.Dispose();
            return true;
        }).ConfigureAwait(false);
    }

    private sealed record Pin(int[] Tokens, UInt128 Root, BlockTable Table, PinnedPrefix Info)
    {
        /// <summary>Its blocks hold what they should.</summary>
        public bool IsWhole { get; set; }
    }
}
