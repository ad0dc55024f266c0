using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Engine;

/// <summary>Adds up what steps take, by kind, beside the bytes they had to read: the share of the memory's bandwidth that they reach.</summary>
/// <param name="clock">Of the times.</param>
/// <param name="weightBytes">Weights that a step reads.</param>
/// <param name="kvBytesPerToken">Keys and values that a token reads for each token up to it.</param>
internal sealed class StepMeter(TimeProvider clock, long weightBytes, long kvBytesPerToken)
{
    private StepStatistics _decode, _prefill, _mixed;

    public StepStatistics Decode => _decode;

    public StepStatistics Prefill => _prefill;

    public StepStatistics Mixed => _mixed;

    /// <summary>Adds a step.</summary>
    /// <param name="batch">What it computed.</param>
    /// <param name="decodes">Sequences of it whose answer it continued.</param>
    /// <param name="duration">In ticks of the clock.</param>
    /// <param name="waited">Of these, waiting for a device.</param>
    public void Note(Batch batch, int decodes, long duration, long waited)
    {
        long context = 0;
        foreach (BatchSequence s in batch.Sequences)
            context += s.FirstPosition + s.Tokens; // the tokens of a chunk read the cache together
        ref StepStatistics kind = ref _mixed;
        if (decodes == batch.SequenceCount)
            kind = ref _decode;
        else if (decodes == 0)
            kind = ref _prefill;
        kind = new StepStatistics(
            kind.Steps + 1, kind.Tokens + batch.TokenCount, kind.Time + clock.GetElapsedTime(0, duration), kind.Waited + clock.GetElapsedTime(0, waited),
            kind.Bytes + weightBytes + (context * kvBytesPerToken));
    }
}
