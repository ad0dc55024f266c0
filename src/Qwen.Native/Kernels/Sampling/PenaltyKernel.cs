using System.Runtime.InteropServices;
using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels.Sampling;

/// <summary>What a row's logits are changed by, as <see cref="PenaltyKernel"/> reads it.</summary>
/// <param name="SeenFirst">Its first entry of the seen tokens.</param>
/// <param name="SeenCount">Entries: the tokens of prompt and answer, each once.</param>
/// <param name="BiasFirst">Its first entry of the biases.</param>
/// <param name="BiasCount">Entries, each token once.</param>
/// <param name="Repetition">Divides positive logits of seen tokens, and multiplies the others.</param>
/// <param name="Presence">Taken off tokens of the answer.</param>
/// <param name="Frequency">Taken off tokens of the answer, times how often they are in it.</param>
[StructLayout(LayoutKind.Sequential, Size = Bytes)]
public readonly record struct PenaltyRow(int SeenFirst, int SeenCount, int BiasFirst, int BiasCount, float Repetition = 1, float Presence = 0, float Frequency = 0)
{
    /// <summary>Its size in device memory.</summary>
    public const int Bytes = 32;
}

/// <summary>
/// Changes logits[r, :] in place: repetition (Keskar et al., CTRL, 2019), presence and frequency penalties of the tokens seen, then biases, of which
/// -100 and less ban a token. The same as the sampler on the host, to the bit.
/// </summary>
/// <remarks>A block a row. It touches only the tokens listed.</remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="stride">Values from one row to the next.</param>
public sealed class PenaltyKernel(KernelCache cache, int stride) : Kernel(cache, Build(cache.Target, stride))
{
    private const float Ban = -100;

    /// <summary>The kernel for rows of a stride.</summary>
    public static PtxKernel Build(PtxTarget target, int stride)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(stride);
        var k = new PtxBuilder(target, $"penalty_{stride}", threads: 256);
        Global logits = k.Pointer("logits"), rows = k.Pointer("rows"), seen = k.Pointer("seen"), biases = k.Pointer("biases");
        k.WaitForPreviousKernel();
        Global row = logits.At(k.BlockX, stride * sizeof(float)), mine = rows.At(k.BlockX, PenaltyRow.Bytes);
        U32[] ranges = k.LoadVector<U32>(mine, 4);
        F32[] penalties = k.LoadVector<F32>(mine + 16, 4);
        (F32 repetition, F32 presence, F32 frequency) = (penalties[0], penalties[1], penalties[2]);

        using (k.For(ranges[0] + k.Thread, ranges[0] + ranges[1], k.Threads, out U32 i))
        {
            U32[] entry = k.LoadVector<U32>(seen.At(i, 2 * sizeof(int)), 2);
            Global at = row.At(entry[0], sizeof(float));
            F32 logit = k.Load<F32>(at);
            logit = k.Select(logit > 0f, k.DivideExactly(logit, repetition), logit * repetition);
            F32 lower = logit - (presence + (frequency * k.ToFloat(entry[1])));
            k.Store(at, k.Select(entry[1] > 0, lower, logit));
        }

        k.Barrier();
        using (k.For(ranges[2] + k.Thread, ranges[2] + ranges[3], k.Threads, out U32 i))
        {
            U32[] entry = k.LoadVector<U32>(biases.At(i, 2 * sizeof(int)), 2);
            Global at = row.At(entry[0], sizeof(float));
            F32 bias = k.AsFloat(entry[1]);
            k.Store(at, k.Select(bias <= Ban, float.NegativeInfinity, k.Load<F32>(at) + bias));
        }

        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="logits">F32 [rows, stride].</param>
    /// <param name="parameters"><see cref="PenaltyRow"/> [rows].</param>
    /// <param name="seen">(S32 token, S32 times in the answer), those of each row together; a token that is only in the prompt has 0.</param>
    /// <param name="biases">(S32 token, F32 bias), those of each row together.</param>
    /// <param name="rows">Rows.</param>
    public void Launch(IDeviceStream stream, DevicePointer logits, DevicePointer parameters, DevicePointer seen, DevicePointer biases, int rows) =>
        Launch(stream, rows, [Argument.Of(logits), Argument.Of(parameters), Argument.Of(seen), Argument.Of(biases)], overlapPrevious: true);
}
