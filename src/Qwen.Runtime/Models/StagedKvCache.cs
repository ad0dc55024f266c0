using Qwen.Runtime.Backends;

namespace Qwen.Runtime.Models;

/// <summary>The keys and values of all layers, those of each stage on its backend. A block has the same number in all of them.</summary>
internal sealed class StagedKvCache(IReadOnlyList<KvCache> stages) : KvCache
{
    public IReadOnlyList<KvCache> Stages { get; } = stages;

    public override long BlockBytes => Stages.Sum(s => s.BlockBytes);

    public override string Layout => string.Join("; ", Stages.Select(s => s.Layout));

    public override void CopyBlocks(ReadOnlySpan<BlockCopy> copies)
    {
        foreach (KvCache stage in Stages)
            stage.CopyBlocks(copies);
    }

    public override void ReadBlock(int block, Span<byte> bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(bytes.Length, BlockBytes, nameof(bytes));
        foreach (KvCache stage in Stages)
        {
            stage.ReadBlock(block, bytes[..(int)stage.BlockBytes]);
            bytes = bytes[(int)stage.BlockBytes..];
        }
    }

    public override void WriteBlock(int block, ReadOnlySpan<byte> bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(bytes.Length, BlockBytes, nameof(bytes));
        foreach (KvCache stage in Stages)
        {
            stage.WriteBlock(block, bytes[..(int)stage.BlockBytes]);
            bytes = bytes[(int)stage.BlockBytes..];
        }
    }

    public override void Dispose()
    {
        foreach (KvCache stage in Stages)
            stage.Dispose();
    }
}
