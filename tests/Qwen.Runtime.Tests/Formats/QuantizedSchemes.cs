using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Tests.Formats;

/// <summary>The variants that checkpoints come in.</summary>
internal static class QuantizedSchemes
{
    /// <summary>Those whose groups the CPU repacks.</summary>
    public static IEnumerable<Scheme> Repacked()
    {
        foreach (int group in (int[])[32, 64, 128, -1])
        {
            foreach (bool zeros in (bool[])[true, false])
                yield return new Scheme { Method = "awq", Group = group, HasZeros = zeros };
        }

        foreach (int bits in (int[])[4, 8])
        {
            foreach (bool v2 in (bool[])[false, true])
            {
                foreach (bool zeros in (bool[])[false, true])
                {
                    yield return new Scheme { Method = "gptq", Bits = bits, IsV2 = v2, HasZeros = zeros, Group = 32, Order = "own" };
                    yield return new Scheme { Method = "gptq", Bits = bits, IsV2 = v2, HasZeros = zeros, Group = 128, Order = "plain", Architecture = "qwen3" };
                }
            }

            yield return new Scheme { Method = "gptq", Bits = bits, Group = 64, Order = "shared", IsTied = true };
            yield return new Scheme { Method = "gptq", Bits = bits, Group = -1 };
            yield return new Scheme { Method = "gptq", Bits = bits, Group = 256 }; // the down projection alone has one such group
            yield return new Scheme { Method = "gptq", Bits = bits, Group = 96 }; // a last group of other size
        }
    }

    /// <summary>Those for which the CPU has no blocks.</summary>
    public static IEnumerable<Scheme> Widened() =>
    [
        new Scheme { Method = "gptq", Group = 64, Order = "unequal" },
        new Scheme { Method = "gptq", Bits = 8, Group = 16, Order = "own" },
        new Scheme { Method = "awq", Group = 48 },
        new Scheme { Method = "awq", ScaleType = TensorType.F32 },
        new Scheme { Method = "fp8", Strategy = "block", ScaleName = "weight_scale_inv", ScaleType = TensorType.F32, BlockRows = 24, BlockColumns = 24 },
    ];

    public static IEnumerable<Scheme> Float8()
    {
        foreach (TensorType type in (TensorType[])[TensorType.F32, TensorType.BF16])
        {
            yield return new Scheme { Method = "fp8", Strategy = "block", ScaleName = "weight_scale_inv", ScaleType = type, IsTied = true, Architecture = "qwen3" };
            yield return new Scheme { Method = "fp8", Strategy = "block", ScaleName = "weight_scale_inv", ScaleType = type, BlockRows = 48, BlockColumns = 80 };
            yield return new Scheme { Method = "fp8", Strategy = "tensor", ScaleType = type };
            yield return new Scheme { Method = "fp8", Strategy = "channel", ScaleType = type };
            yield return new Scheme { Method = "fbgemm_fp8", Strategy = "channel", ScaleType = type };
            foreach (string strategy in (string[])["tensor", "channel", "block"])
                yield return new Scheme { Method = "compressed-tensors", Strategy = strategy, ScaleType = type, Architecture = "qwen3" };
        }
    }
}
