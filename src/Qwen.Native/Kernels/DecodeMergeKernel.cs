using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>Merges what the blocks of <see cref="DecodeAttentionKernel"/> did of heads that several of them shared.</summary>
/// <remarks>
/// A block a query head, so that the parts of one, tens of KB at long contexts, are read by many multiprocessors; every group of headDim / 4 threads
/// takes a few parts and several loads at a time. The parts are summed in a fixed order. Heads that one block did alone cost a look at the schedule.
/// </remarks>
internal sealed class DecodeMergeKernel(KernelCache cache, AttentionShape shape) : Kernel(cache, Build(cache.Target, shape))
{
    private const int BlockThreads = 256, Width = 4, Ahead = 4;

    /// <summary>The kernel for a shape.</summary>
    public static PtxKernel Build(PtxTarget target, AttentionShape shape)
    {
        shape.Check();
        var k = new PtxBuilder(target, $"decode_merge_{shape.Name}", BlockThreads);
        var arguments = new AttentionArguments(k);
        Global workspace = k.Pointer("workspace");
        U32 count = k.Number("count"), blocks = k.Number("blocks");
        U32 head = k.BlockX, ordinal = k.BlockY, query = head % shape.Group;
        k.WaitForPreviousKernel();
        k.LetNextKernelStart();

        var schedule = new DecodeSchedule(k, arguments, shape, DecodeAttentionKernel.RoundPositions(shape), count, blocks);
        U32 sequence = schedule.Sequence(ordinal, null);
        U32 rounds = schedule.Rounds(schedule.Positions(sequence, null));
        U32 start = (schedule.Sum(ordinal) * shape.KvHeads) + ((head / shape.Group) * rounds);
        k.ReturnIf(rounds.Is(0));
        U32 first = schedule.BlockOf(start), last = schedule.BlockOf(start + (rounds - 1));
        k.ReturnIf(first.Is(last));

        // The first block began this head in the midst of its run, which ends with it: its second part. The others began with it.
        U32 parts = (last - first) + 1;
        Global Part(U32 part) => workspace.At(((first + part) * 2) + k.Select<U32>(part.Is(0), 1, 0), DecodeAttentionKernel.PartialBytes(shape));
        Global Maximum(Global part) => part.At(query, sizeof(float)) + (shape.Group * shape.HeadDim * sizeof(float));
        F32 maximum = k.Variable<F32>(float.NegativeInfinity);
        using (k.For(k.Thread, parts, k.Threads, out U32 mine))
            k.Set(maximum, k.Max(maximum, k.Load<F32>(Maximum(Part(mine)))));
        Shared scratch = k.AllocateShared(k.Warps * sizeof(float));
        F32 most = k.MaxBlock(maximum, scratch);

        int threads = shape.HeadDim / Width, groups = BlockThreads / threads;
        U32 group = k.Thread / threads, column = (k.Thread % threads) * Width;
        F32[] sums = [.. Enumerable.Range(0, Width + 1).Select(_ => k.Variable<F32>(0f))]; // the last: of the weights
        using (k.If(group < groups))
        {
            using (k.For(group, parts, groups * Ahead, out U32 index))
            {
                var loaded = new (F32[] Values, F32 Maximum, F32 Weight)[Ahead];
                for (int i = 0; i < Ahead; i++)
                {
                    Global part = Part(k.Min(index + (i * groups), parts - 1)), after = Maximum(part);
                    F32 ofPart = k.Load<F32>(after);
                    loaded[i] = (
                        k.LoadVector<F32>(part.At(query, shape.HeadDim * sizeof(float)).At(column, sizeof(float)), Width),
                        i == 0 ? ofPart : k.Select<F32>(index + (i * groups) < parts, ofPart, float.NegativeInfinity),
                        k.Load<F32>(after + (shape.Group * sizeof(float))));
                }

                foreach ((F32[] values, F32 ofPart, F32 weight) in loaded)
                {
                    F32 factor = k.Exp2(ofPart - most);
                    for (int i = 0; i < Width; i++)
                        k.FmaInto(sums[i], values[i], factor);
                    k.FmaInto(sums[Width], weight, factor);
                }
            }
        }

        // The groups' sums, in order, by the threads of the first.
        Shared all = k.AllocateShared((Width + 1) * BlockThreads * sizeof(float));
        for (int i = 0; i <= Width; i++)
            k.Store(all.At(k.Thread, sizeof(float)) + (i * BlockThreads * sizeof(float)), sums[i]);
        k.Barrier();
        k.ReturnIf(k.Thread >= threads);
        for (int i = 0; i <= Width; i++)
        {
            for (int g = 1; g < groups; g++)
                k.AddInto(sums[i], k.Load<F32>(all.At(k.Thread, sizeof(float)) + (((i * BlockThreads) + (g * threads)) * sizeof(float))));
        }

        F32 inverse = k.Reciprocal(sums[Width]);
        U32 token = k.Load<U32>(arguments.FirstTokens.At(sequence, sizeof(int)));
        Global row = arguments.Attended.At(token, shape.Heads * shape.HeadDim * sizeof(ushort)).At(head, shape.HeadDim * sizeof(ushort));
        k.StoreElements(shape.Type, row.At(column, sizeof(ushort)), [.. sums[..Width].Select(sum => sum * inverse)]);
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="count">Sequences.</param>
    /// <param name="arguments">Those in common, the workspace, the count and the blocks that shared the work.</param>
    public void Launch(IDeviceStream stream, int count, ReadOnlySpan<ulong> arguments) =>
        Launch(stream, new Dim3(shape.Heads, count), arguments, overlapPrevious: true);
}
