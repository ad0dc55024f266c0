using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels.Sampling;

/// <summary>tokens[r] = the token of the largest of logits[r, :], the lowest of equals; where one is NaN or infinite, or all are minus infinity, the complement of its token.</summary>
/// <remarks>
/// Memory-bound: the logits are read once. With few rows, several blocks share one: they meet in an atomic maximum, and the last to be done
/// writes the token and leaves the scratch memory as it found it.
/// </remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="vocabulary">Logits of a row.</param>
/// <param name="stride">Values from one row to the next; null for no more than the vocabulary.</param>
public sealed class ArgmaxKernel(KernelCache cache, int vocabulary, int? stride = null) : Kernel(cache, Build(cache.Target, vocabulary, stride))
{
    /// <summary>Bytes of scratch memory a row.</summary>
    public const int ScratchBytes = 16;

    private const int LeastPerBlock = 4096;

    private readonly int _multiprocessors = cache.Device.Info.Multiprocessors;

    /// <summary>The kernel for a vocabulary.</summary>
    public static PtxKernel Build(PtxTarget target, int vocabulary, int? stride = null)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(vocabulary);
        var k = new PtxBuilder(target, $"argmax_{vocabulary}_{stride ?? vocabulary}", threads: 256);
        Global logits = k.Pointer("logits"), tokens = k.Pointer("tokens"), scratch = k.Pointer("scratch");
        var row = new LogitRow(k, logits, vocabulary, stride);
        k.WaitForPreviousKernel();
        U64 best = row.BestOfBlock(row.Best(part: (k.BlockY, k.GridY)), k.AllocateShared(k.Warps * sizeof(ulong)));
        k.ReturnIf(k.Thread > 0);
        Global shared = scratch.At(k.BlockX, ScratchBytes), ticket = shared + sizeof(ulong);
        k.AtomicMax(shared, best);
        k.FenceDevice();
        k.ReturnIf(k.AtomicIncrement(ticket, k.GridY - 1).IsNot(k.GridY - 1));
        k.FenceDevice();
        k.Store(tokens.At(k.BlockX, sizeof(int)), row.Report(k.Load<U64>(shared, CacheHint.L2Only)));
        k.Store<U64>(shared, k.Variable<U64>(0ul));
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="logits">F32 [rows, stride].</param>
    /// <param name="tokens">S32 [rows].</param>
    /// <param name="scratch">[rows, <see cref="ScratchBytes"/>], zeros; they are zeros again after.</param>
    /// <param name="rows">Rows.</param>
    public void Launch(IDeviceStream stream, DevicePointer logits, DevicePointer tokens, DevicePointer scratch, int rows)
    {
        // Four blocks a multiprocessor: 64 KB of loads under way there.
        int parts = Math.Clamp(4 * _multiprocessors / Math.Max(rows, 1), 1, Math.Max(vocabulary / LeastPerBlock, 1));
        Launch(stream, new Dim3(rows, parts), [Argument.Of(logits), Argument.Of(tokens), Argument.Of(scratch)], overlapPrevious: true);
    }
}
