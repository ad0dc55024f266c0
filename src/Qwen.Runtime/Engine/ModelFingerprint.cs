using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Engine;

/// <summary>Tells whether keys and values that were saved are those this model would compute.</summary>
internal static class ModelFingerprint
{
    private const int Sample = 4096;

    /// <summary>A hash of the hyperparameters, the rotary angles, and each tensor's name, type, shape, and first and last bytes: fast, and another fine-tune has another one.</summary>
    public static string Of(LoadedModel model)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(Encoding.UTF8.GetBytes(model.Config.ToString()));
        hash.AppendData(MemoryMarshal.AsBytes<double>(model.Config.RopeScaling.InverseFrequencies(model.Config.HeadDim, model.Config.RopeTheta, model.Config.MaxPositions, model.MaxModelLength)));
        foreach (Tensor tensor in model.Checkpoint.Tensors.Values.OrderBy(t => t.Name, StringComparer.Ordinal))
        {
            hash.AppendData(Encoding.UTF8.GetBytes($"\n{tensor.Name} {tensor.Type} {string.Join(',', tensor.Shape)} "));
            ReadOnlySpan<byte> bytes = tensor.Bytes;
            hash.AppendData(bytes[..Math.Min(Sample, bytes.Length)]);
            hash.AppendData(bytes[^Math.Min(Sample, bytes.Length)..]);
        }

        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }
}
