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

    /// <summary>Random workloads under pressure: every request ends, no block leaks or is held twice, the budget holds, logits are asked for exactly when due.</summary>
    [Fact]
    public void RandomWorkloads_AllEnd_AndLeakNothing()
    {
        for (int seed = 0; seed < 3000; seed++)
        {
            var random = new Random(seed);
            int blockSize = random.Next(1, 9), blocks = random.Next(2, 40), maxSequences = random.Next(1, 9);
            using var work = new Workload(blocks, blockSize, maxSequences, maxTokens: random.Next(maxSequences, 40));
            int requests = random.Next(1, 20), bound = 0;
            for (int step = 0; requests > 0 || work.Scheduler.HasWork; step++)
            {
                if (requests > 0 && random.Next(3) == 0)
                {
                    int length = random.Next(2, (blocks * blockSize) + 1), prompt = random.Next(1, length);
                    work.Add(prompt, length - prompt);
                    requests--;
                    bound = step + 20000;
                }

                if (random.Next(10) == 0 && work.Scheduler.Running.Count > 0)
                    work.Drop(work.Scheduler.Running[random.Next(work.Scheduler.Running.Count)]);
                if (work.Scheduler.HasWork)
                    work.Step();
                Assert.True(requests > 0 || step < bound, $"seed {seed}: no end");
            }

            Assert.True(work.Pool.Free == work.Pool.Blocks, $"seed {seed}: {work.Pool.Blocks - work.Pool.Free} blocks leaked");
        }
    }

    private sealed class TestSequence(int prompt, int answer, BlockPool pool)
        : Sequence([.. Enumerable.Range(0, prompt)], prompt + answer, pool);

    /// <summary>Drives a scheduler as the engine does, with a model that only counts, and checks every step.</summary>
    private sealed class Workload(int blocks, int blockSize, int maxSequences, int maxTokens) : IDisposable
    {
        private readonly Batch _batch = new(maxTokens, maxSequences);

        public BlockPool Pool { get; } = new(blocks, blockSize);

        public Scheduler<TestSequence> Scheduler => field ??= new Scheduler<TestSequence>(Pool, maxSequences);

        public TestSequence Add(int prompt, int answer)
        {
            var sequence = new TestSequence(prompt, answer, Pool);
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
