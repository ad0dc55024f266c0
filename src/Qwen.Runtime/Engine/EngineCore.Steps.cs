using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Engine;

/// <content>How one step follows another: each is put on its way, the one after it where that can be, and then its tokens are taken.</content>
internal sealed partial class EngineCore
{
    private static readonly int[] Unknown = [0]; // a token that is chosen, but not known yet

    private readonly StepUnderWay[] _underWay; // the step to take next, and the one after
    private int _turn; // of the two

    /// <summary>Lets go of what left, then computes a step. False if there was nothing to compute: all that is left waits for its readers.</summary>
    public bool Step()
    {
        long start = Now;
        Review();
        StepUnderWay step = _underWay[_turn], next = _underWay[_turn ^ 1];
        if (!step.IsUnderWay && !TrySchedule(step, start))
            return false;
        _turn ^= 1;
        if (CanRunAhead(step))
            RunAhead(step, next);
        if (step.IsUnderWay)
            Take(step, start);
        return true;
    }

    /// <summary>Fills a step and puts it on its way. False if there is nobody to compute for.</summary>
    private bool TrySchedule(StepUnderWay step, long now)
    {
        Draft();
        step.Clear();
        step.Sequences.AddRange(_scheduler.Schedule(step.Batch));
        foreach (ScheduledSequence<Generation> part in step.Sequences)
        {
            Generation generation = part.Sequence;
            generation.Request.StartedAt ??= now;
            step.Decodes += generation.Generated > 0 && generation.Pending == 1 ? 1 : 0;
        }

        if (step.Sequences.Count > 0)
            Launch(step, isAhead: false);
        return step.Sequences.Count > 0;
    }

    /// <summary>Puts a step on its way.</summary>
    private void Launch(StepUnderWay step, bool isAhead)
    {
        try
        {
            if (!isAhead && _scheduler.Copies.Length > 0)
                _runner.CopyBlocks(_scheduler.Copies);
            _runner.Forward(step.Batch);
            ChooseWhereLogitsLie(step, isAhead);
            step.IsUnderWay = true;
        }
#pragma warning disable CA1031 // Whatever a step throws fails the requests in it, each of which gets the exception; the others go on.
        catch (Exception error)
#pragma warning restore CA1031
        {
            Fail(step, error);
        }
    }

    /// <summary>Waits for a step and takes its tokens.</summary>
    private void Take(StepUnderWay step, long start)
    {
        step.IsUnderWay = false;
        long wait = Now;
        try
        {
            _runner.Sampler?.Wait();
        }
#pragma warning disable CA1031 // As where it is launched: faults of a device show when it is waited for.
        catch (Exception error)
#pragma warning restore CA1031
        {
            Fail(step, error);
            return;
        }

        long waited = Now - wait;
        FailedSteps = 0;
        foreach (ScheduledSequence<Generation> part in step.Sequences)
        {
            if (!part.Sequence.HasEnded)
                Accept(part);
        }

        _steps.Note(step.Batch, step.Decodes, Now - start, waited);
        _metrics.StepTokens.Record(step.Batch.TokenCount);
    }

    private void Fail(StepUnderWay step, Exception error)
    {
        FailedSteps++;
        foreach (ScheduledSequence<Generation> part in step.Sequences)
            Abandon(part.Sequence.Request, error, EngineMetrics.Failed);
    }

    /// <summary>
    /// Whether the step after one can be on its way before that one's tokens are known: every answer that runs gets one by the backend, which depends on
    /// no token before, and nobody waits who could join.
    /// </summary>
    private bool CanRunAhead(StepUnderWay step)
    {
        if (!_runner.ReadsItsChoices || !step.ChoosesAll || _drafter is not null || (_scheduler.Waiting.Count > 0 && _scheduler.Running.Count < _options.MaxSequences))
            return false;
        int running = 0;
        foreach (ScheduledSequence<Generation> part in step.Sequences)
        {
            Generation generation = part.Sequence;
            if (generation.HasEnded)
                continue;
            running++;
            if (part.LogitRows != 1 || part.Tokens != generation.Pending || generation.Width > 1 || generation.Request.PromptLogprobs is not null || generation.Sampler.MostSeen(0) > 0)
                return false;
        }

        return running == _scheduler.Running.Count;
    }

    /// <summary>
    /// Puts the step after one on its way: each answer goes on from the token chosen for its row, whatever it is. So the device never waits for the host. An
    /// answer that turns out to have ended is dropped a step late. What is computed of it is nobody's: the blocks it is written to may have a new
    /// owner by then, but the device works in order, and the owner writes later.
    /// </summary>
    private void RunAhead(StepUnderWay step, StepUnderWay next)
    {
        next.Clear();
        foreach (ScheduledSequence<Generation> part in step.Sequences)
        {
            Generation generation = part.Sequence;
            int length = generation.Length + 1; // with the token that is chosen now
            if (generation.HasEnded || length == generation.MaxLength)
                continue;
            if (!generation.Table.TryGrow(length)) // no block is shared beyond the prompt
                return;
            int row = next.Batch.Add([~part.LogitRow], generation.Length, generation.Table, logits: 1);
            next.Sequences.Add(new ScheduledSequence<Generation>(generation, 1, row, 1));
        }

        next.Decodes = next.Sequences.Count;
        if (next.Decodes > 0)
            Launch(next, isAhead: true);
    }

    /// <summary>Has the backend choose what it can, all rows at once. What it leaves is sampled here, row by row.</summary>
    private void ChooseWhereLogitsLie(StepUnderWay step, bool isAhead)
    {
        if (_runner.Sampler is not { } sampler)
            return;
        int added = 0;
        foreach (ScheduledSequence<Generation> part in step.Sequences)
        {
            Generation generation = part.Sequence;
            int drafted = isAhead ? 0 : Math.Max(part.Tokens - generation.Pending, 0);
            if (part.LogitRows == 0 || part.Tokens < generation.Pending || generation.OnlyReads || generation.Width > 1)
                continue;
            // The rows before are those of a prompt whose log-probabilities are wanted.
            int first = part.LogitRow + part.LogitRows - 1 - drafted;
            ReadOnlySpan<int> draft = isAhead ? Unknown : generation.From(generation.Length);
            for (int ahead = 0; ahead <= drafted; ahead++)
                added += sampler.TryAdd(first + ahead, generation.Sampler, isAhead ? draft : draft[..ahead]) ? 1 : 0;
        }

        step.ChoosesAll = added == step.Batch.LogitRowCount;
        sampler.Run(_vocabulary);
    }
}
