using Qwen.Runtime.Cache;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Tests.Scheduling;

public sealed class SchedulerTests
{
    [Fact]
    public void Schedule_PutsDecodesBeforePromptChunks_WithinTheBudget()
    {
        using var work = new Workload(blocks: 64, blockSize: 4, maxSequences: 4, maxTokens: 8);
        TestSequence decoding = work.Add(prompt: 3, answer: 5);
        work.Step();
        TestSequence long1 = work.Add(prompt: 20, answer: 1);

        IReadOnlyList<ScheduledSequence<TestSequence>> step = work.Schedule();

        Assert.Equal([(decoding, 1), (long1, 7)], step.Select(s => (s.Sequence, s.Tokens)));
        Assert.Equal([0, -1], step.Select(s => s.LogitRow));
    }

    [Fact]
    public void Schedule_AdmitsFirstComeFirstServed_UpToTheMostSequences()
    {
        using var work = new Workload(blocks: 64, blockSize: 4, maxSequences: 2, maxTokens: 32);
        TestSequence[] sequences = [.. Enumerable.Range(0, 3).Select(_ => work.Add(prompt: 4, answer: 1))];

        Assert.Equal(sequences[..2], work.Schedule().Select(s => s.Sequence));
        Assert.Equal([sequences[2]], work.Scheduler.Waiting);
    }

    [Fact]
    public void Schedule_EvictsTheNewest_WhenBlocksRunOut_AndReadsItAgain()
    {
        using var work = new Workload(blocks: 4, blockSize: 2, maxSequences: 2, maxTokens: 16);
        TestSequence old = work.Add(prompt: 4, answer: 4), young = work.Add(prompt: 3, answer: 4);
        work.Step(); // both read: 2 + 2 blocks, old needs a third for its next token

        Assert.Equal([old], work.Step());
        Assert.Equal(1, work.Scheduler.Preemptions);
        Assert.Equal(0, young.Computed);
        work.RunToEnd(100);
        Assert.Equal(7, young.Length);
    }

    [Fact]
    public void Add_RefusesASequenceThatCouldOutgrowThePool()
    {
        using var work = new Workload(blocks: 4, blockSize: 2, maxSequences: 2, maxTokens: 16);
        ArgumentException error = Assert.Throws<ArgumentException>(() => work.Add(prompt: 4, answer: 5));
        Assert.Contains("9 tokens needs 5 blocks", error.Message, StringComparison.Ordinal);
    }

    /// <summary>Random workloads under pressure, with forks, guesses, pauses, cancels and pins: every request ends, no block leaks or is held twice, the budget holds, nobody is passed, and nobody reads what is another's.</summary>
    [Fact]
    public void RandomWorkloads_AllEnd_AndLeakNothing()
    {
        long preemptions = 0, hits = 0, copies = 0, confirmed = 0;
        Parallel.For(0, 100_000, seed =>
        {
            using var simulator = new SchedulerSimulator(seed);
            try
            {
                simulator.Run();
            }
            catch (Exception e)
            {
                throw new InvalidOperationException($"seed {seed}: {e.Message}", e);
            }

            Interlocked.Add(ref preemptions, simulator.Preemptions);
            Interlocked.Add(ref hits, simulator.PrefixHits);
            Interlocked.Add(ref copies, simulator.Copies);
            Interlocked.Add(ref confirmed, simulator.Confirmed);
        });
        Assert.True(preemptions > 50_000 && hits > 50_000 && copies > 10_000 && confirmed > 50_000, $"{preemptions} preemptions, {hits} hits, {copies} copies, {confirmed} guesses came true");
    }

    [Fact]
    public void Fork_SharesThePrompt_AndCopiesTheBlockItWrites()
    {
        using var work = new Workload(blocks: 8, blockSize: 4, maxSequences: 3, maxTokens: 16);
        TestSequence leader = work.Add(prompt: 6, answer: 4);
        leader.Width = 2;
        leader.Advance(work.Schedule().Single().Tokens);
        var fork = new TestSequence(6, 4, work.Pool);
        work.Scheduler.Fork(leader, fork);
        leader.Append(1);
        fork.Append(2);
        Assert.Equal(6, work.Pool.Free); // 2 blocks between them

        work.Schedule();

        Assert.Equal(1, work.Scheduler.Copies.Length);
        Assert.Equal(5, work.Pool.Free);
        Assert.Equal(leader.Table.Slot(0), fork.Table.Slot(0));
        Assert.NotEqual(leader.Table.Slot(4), fork.Table.Slot(4));
    }

    [Fact]
    public void Schedule_TakesTheUrgentFirst_AndEvictsTheOthers()
    {
        using var work = new Workload(blocks: 4, blockSize: 2, maxSequences: 2, maxTokens: 16);
        TestSequence patient = work.Add(prompt: 4, answer: 4, priority: 1);
        work.Step();
        TestSequence later = work.Add(prompt: 1, answer: 1, priority: 1), urgent = work.Add(prompt: 2, answer: 6, priority: -1);

        Assert.Equal([patient, urgent], work.Step());
        Assert.Equal([later], work.Scheduler.Waiting);
        work.Step();
        work.Step();
        Assert.Equal([urgent], work.Scheduler.Running);
        Assert.Equal([patient, later], work.Scheduler.Waiting);
    }

    [Fact]
    public void Paused_HoldsItsBlocks_UntilOthersNeedThem()
    {
        using var work = new Workload(blocks: 4, blockSize: 2, maxSequences: 2, maxTokens: 16);
        TestSequence paused = work.Add(prompt: 4, answer: 4);
        work.Step();
        paused.IsPaused = true;
        TestSequence other = work.Add(prompt: 1, answer: 7);
        Assert.Equal([other], work.Step());
        Assert.Contains(paused, work.Scheduler.Running);
        for (int i = 0; i < 4; i++)
            work.Step();
        Assert.Contains(paused, work.Scheduler.Waiting);
        paused.IsPaused = false;
        work.RunToEnd(100);
        Assert.Equal(8, paused.Length);
    }

    private sealed class TestSequence(int prompt, int answer, BlockPool pool)
        : Sequence([.. Enumerable.Range(0, prompt)], prompt + answer, pool);

    /// <summary>Drives a scheduler as the engine does, with a model that only counts, and checks every step.</summary>
    private sealed class Workload(int blocks, int blockSize, int maxSequences, int maxTokens) : IDisposable
    {
        private readonly Batch _batch = new(maxTokens, maxSequences);

        public BlockPool Pool { get; } = new(blocks, blockSize);

        public Scheduler<TestSequence> Scheduler => field ??= new Scheduler<TestSequence>(Pool, maxSequences);

        public TestSequence Add(int prompt, int answer, int priority = 0)
        {
            var sequence = new TestSequence(prompt, answer, Pool) { Priority = priority };
            Scheduler.Add(sequence);
            return sequence;
        }

        public void Drop(TestSequence sequence)
        {
            Scheduler.Remove(sequence);
            sequence.Dispose();
        }

        public unsafe IReadOnlyList<ScheduledSequence<TestSequence>> Schedule()
        {
            IReadOnlyList<ScheduledSequence<TestSequence>> step = Scheduler.Schedule(_batch);
            Assert.NotEmpty(step);
            Assert.Equal(step.Sum(s => s.Tokens), _batch.TokenCount);
            Assert.InRange(_batch.TokenCount, 1, maxTokens);
            Assert.Equal(step.Count, step.Select(s => s.Sequence).Distinct().Count());
            var slots = new HashSet<int>();
            for (int i = 0; i < _batch.TokenCount; i++)
                Assert.True(slots.Add(_batch.Slots[i]), "two tokens share a slot");
            return [.. step];
        }

        public TestSequence[] Step()
        {
            IReadOnlyList<ScheduledSequence<TestSequence>> step = Schedule();
            foreach (ScheduledSequence<TestSequence> part in step)
            {
                Assert.Equal(part.Tokens == part.Sequence.Pending, part.LogitRow >= 0);
                part.Sequence.Advance(part.Tokens);
                if (part.LogitRow < 0)
                    continue;
                part.Sequence.Append(7);
                if (part.Sequence.Length == part.Sequence.MaxLength)
                    Drop(part.Sequence);
            }

            return [.. step.Select(s => s.Sequence)];
        }

        public void RunToEnd(int bound)
        {
            for (int i = 0; Scheduler.HasWork; i++)
            {
                Assert.True(i < bound);
                Step();
            }
        }

        public void Dispose()
        {
            foreach (TestSequence sequence in Scheduler.Running.Concat(Scheduler.Waiting).ToArray())
                sequence.Dispose();
            _batch.Dispose();
        }
    }
}
