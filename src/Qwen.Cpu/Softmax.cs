using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>The weights of a softmax, with the same bits on every instruction set.</summary>
public static unsafe class Softmax
{
    /// <summary>weights[i] = e^(logits[i] - max); returns their sum (16 lanes by index, folded). The spans may be the same.</summary>
    public static float Weights(ReadOnlySpan<float> logits, float max, Span<float> weights)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(weights.Length, logits.Length, nameof(weights));
        Vector512<float> sum = default, top = Vector512.Create(max);
        fixed (float* from = logits, to = weights)
        {
            int i = 0;
            for (; i <= logits.Length - Lanes.Count; i += Lanes.Count)
            {
                Vector512<float> e = Exponential.Of(Vector512.Load(from + i) - top);
                e.Store(to + i);
                sum += e;
            }

            int tail = logits.Length - i;
            if (tail > 0)
            {
                Lanes.StorePartial(Exponential.Of(Lanes.LoadPartial(from + i, tail) - top), to + i, tail);
                sum += Lanes.LoadPartial(to + i, tail);
            }
        }

        return Lanes.Fold(sum);
    }
}
