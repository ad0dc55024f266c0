using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Engine;

/// <summary>A step from when it is put on its way until its tokens are taken: what it computes, and for whom.</summary>
/// <param name="options">Bounds.</param>
internal sealed class StepUnderWay(EngineOptions options) : IDisposable
{
    /// <summary>What it computes.</summary>
    public Batch Batch { get; } = new(options.MaxBatchedTokens, options.MaxSequences, options.MaxLogitRows);

    /// <summary>For whom.</summary>
    public List<ScheduledSequence<Generation>> Sequences { get; } = new(options.MaxSequences);

    /// <summary>Sequences whose answer it continues.</summary>
    public int Decodes { get; set; }

    /// <summary>It is on its way, and not taken yet.</summary>
    public bool IsUnderWay { get; set; }

    /// <summary>The backend chooses the tokens of all its logit rows.</summary>
    public bool ChoosesAll { get; set; }

    /// <summary>Empties it.</summary>
    public void Clear()
    {
        Batch.Clear();
        Sequences.Clear();
        Decodes = 0;
        ChoosesAll = false;
    }

    /// <inheritdoc/>
    public void Dispose() => Batch.Dispose();
}
