using Qwen.Runtime.Backends;
using Qwen.Runtime.Cache;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Tests.Models;

/// <summary>A network that reads several sequences at once, each in chunks.</summary>
internal sealed class SideBySide : IDisposable
{
    private const int BlockSize = 16;

    private readonly QwenModel _model;
    private readonly KvCache _cache;
    private readonly Batch _batch;
    private readonly int _blocks, _longest;

    /// <summary>Loads it.</summary>
    /// <param name="checkpoint">The weights.</param>
    /// <param name="placement">What computes.</param>
    /// <param name="type">Of the cache.</param>
    /// <param name="sequences">Most at once.</param>
    /// <param name="longest">Most tokens of one.</param>
    /// <param name="maxTokens">Most tokens of a step.</param>
    public SideBySide(Checkpoint checkpoint, LayerPlacement placement, KvCacheType type, int sequences, int longest, int maxTokens = 160)
    {
        _longest = longest;
        _blocks = sequences * ((longest + BlockSize - 1) / BlockSize);
        _batch = new Batch(maxTokens, sequences);
        _model = new QwenModel(checkpoint, ModelConfig.Load(checkpoint), placement, maxTokens, sequences, longest);
        _cache = _model.AllocateCache(type, _blocks, BlockSize);
    }

    /// <summary>Loads it on one backend.</summary>
    public SideBySide(Checkpoint checkpoint, IBackend backend, KvCacheType type, int sequences, int longest)
        : this(checkpoint, LayerPlacement.Whole(backend, ModelConfig.Load(checkpoint).Layers), type, sequences, longest)
    {
    }

    /// <summary>Reads all sequences, each in chunks of the lengths given, and returns the logits after the last token of each.</summary>
    public float[][] Read(int[][] sequences, Func<int> chunk)
    {
        var pool = new BlockPool(_blocks, BlockSize);
        BlockTable[] tables = [.. sequences.Select(_ => new BlockTable(pool, _longest))];
        int[] read = new int[sequences.Length], row = new int[sequences.Length];
        var logits = new float[sequences.Length][];
        while (logits.Contains(null))
        {
            _batch.Clear();
            for (int i = 0; i < sequences.Length; i++)
            {
                int count = Math.Min(Math.Min(chunk(), sequences[i].Length - read[i]), _batch.MaxTokens - _batch.TokenCount);
                row[i] = -1;
                if (count == 0)
                    continue;
                Assert.True(tables[i].TryGrow(read[i] + count));
                row[i] = _batch.Add(sequences[i].AsSpan(read[i], count), read[i], tables[i], wantLogits: read[i] + count == sequences[i].Length);
                read[i] += count;
            }

            _model.Forward(_batch, _cache);
            for (int i = 0; i < sequences.Length; i++)
            {
                if (row[i] >= 0)
                    logits[i] = _model.Logits(row[i]).ToArray();
            }
        }

        foreach (BlockTable table in tables)
            table.Dispose();
        return logits;
    }

    public void Dispose()
    {
        _cache.Dispose();
        _model.Dispose();
        _batch.Dispose();
    }
}
