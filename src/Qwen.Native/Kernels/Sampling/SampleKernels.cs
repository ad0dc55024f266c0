using Qwen.Native.Device;

namespace Qwen.Native.Kernels.Sampling;

/// <summary>
/// tokens[r] = a token drawn from logits[r, :] with a given random number, after temperature, min-p, top-k and top-p in this order (vLLM's); where a logit is
/// NaN or infinite, the complement of its token. The same choice as the sampler on the host, up to the rounding of e^x.
/// </summary>
/// <remarks>
/// Three kernels, in each of which several blocks share a row, as one multiprocessor alone would take 6 us to read it once: the likeliest token, which
/// weights are relative to; a histogram over the weights, whose sums say in which few bins the choice falls; the choice among the tokens of those.
/// </remarks>
/// <param name="cache">Where they are compiled.</param>
/// <param name="vocabulary">Logits of a row, less than 2^22.</param>
/// <param name="stride">Values from one row to the next; null for no more than the vocabulary.</param>
public sealed class SampleKernels(KernelCache cache, int vocabulary, int? stride = null)
{
    /// <summary>Bytes of scratch memory a row.</summary>
    public const int ScratchBytes = SamplingScratch.Bytes;

    private readonly ArgmaxKernel _likeliest = new(cache, vocabulary, stride);
    private readonly WeighKernel _weigh = new(cache, vocabulary, stride);
    private readonly SampleKernel _sample = new(cache, vocabulary, stride);
    private readonly int _multiprocessors = cache.Device.Info.Multiprocessors;

    /// <summary>Launches them.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="logits">F32 [rows, stride].</param>
    /// <param name="parameters"><see cref="SamplingRow"/> [rows].</param>
    /// <param name="tokens">S32 [rows].</param>
    /// <param name="scratch">[rows, <see cref="ScratchBytes"/>], zeros at first, and then left as the next launch needs it.</param>
    /// <param name="rows">Rows.</param>
    public void Launch(IDeviceStream stream, DevicePointer logits, DevicePointer parameters, DevicePointer tokens, DevicePointer scratch, int rows)
    {
        _likeliest.Launch(stream, logits, tokens, scratch, rows);
        // Two blocks a multiprocessor, as long as each has a chunk.
        int parts = Math.Clamp(2 * _multiprocessors / Math.Max(rows, 1), 1, (vocabulary + WeighKernel.ChunkTokens - 1) / WeighKernel.ChunkTokens);
        _weigh.Launch(stream, new Dim3(rows, parts), logits, parameters, tokens, scratch);
        _sample.Launch(stream, new Dim3(rows, parts), logits, parameters, tokens, scratch);
    }
}
