using Qwen.Emulation.Programs;

namespace Qwen.Emulation.Execution;

/// <summary>
/// Runs the blocks of a launch. Blocks that can't see each other run on several threads; others (atomics, acquire loads, polling) run in a
/// fixed order, as many at once as the device would hold, each in its turn, so that results are the same every time.
/// </summary>
internal static class Grid
{
    private const int Rounds = 64;

    public static void Run(EntryProgram program, LaunchContext launch, int sharedBytes, int resident)
    {
        long blocks = launch.GridSize.Count;
        int threads = (int)launch.BlockSize.Count;
        if (program.OrdersBlocks || blocks == 1)
            RunInTurns(program, launch, sharedBytes, threads, resident);
        else
            RunAtOnce(program, launch, sharedBytes, threads, blocks);
    }

    private static void RunAtOnce(EntryProgram program, LaunchContext launch, int sharedBytes, int threads, long blocks)
    {
        Lock gate = new();
        (long Block, DeviceFaultException Fault)? first = null;
        Parallel.For(0L, blocks, () => program.Rent(threads, sharedBytes), (number, state, block) =>
        {
            try
            {
                block.Start(launch, number);
                while (!block.Run(Rounds))
                {
                }
            }
            catch (DeviceFaultException fault)
            {
                // Blocks before this one still run, so that the fault reported is always the same.
                lock (gate)
                {
                    if (first is null || number < first.Value.Block)
                        first = (number, fault);
                }

                state.Break();
            }

            return block;
        }, program.Return);
        if (first is { } found)
            throw found.Fault;
    }

    private static void RunInTurns(EntryProgram program, LaunchContext launch, int sharedBytes, int threads, int resident)
    {
        long next = 0, blocks = launch.GridSize.Count;
        Queue<Block> running = new();
        Block? free = null;
        try
        {
            while (next < blocks || running.Count > 0)
            {
                Block block;
                if (next < blocks && running.Count < resident)
                {
                    block = free ?? program.Rent(threads, sharedBytes);
                    free = null;
                    running.Enqueue(block);
                    block.Start(launch, next++);
                }

                // The newest block gets its first turn with all the others.
                for (int i = running.Count; i > 0; i--)
                {
                    block = running.Dequeue();
                    if (!block.Run(Rounds))
                    {
                        running.Enqueue(block);
                        continue;
                    }

                    if (free is not null)
                        program.Return(free);
                    free = block;
                }
            }
        }
        finally
        {
            if (free is not null)
                program.Return(free);
            foreach (Block block in running)
                program.Return(block);
        }
    }
}
