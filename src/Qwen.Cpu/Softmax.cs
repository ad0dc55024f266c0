namespace Qwen.Cpu;

/// <summary>The weights of a softmax, with the same bits on every instruction set.</summary>
public static unsafe class Softmax
{
    /// <summary>weights[i] = e^(logits[i] - max); returns their sum (16 lanes by index, folded). The spans may be the same.</summary>
    /// <exception cref="ArgumentOutOfRangeException">There is no room for the weights.</exception>
    public static float Weights(ReadOnlySpan<float> logits, float max, Span<float> weights)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(weights.Length, logits.Length, nameof(weights));
        fixed (float* from = logits, to = weights)
        {
            return Lanes512.IsSupported ? Weights<Lanes512>(from, logits.Length, max, to)
                : Lanes256.IsSupported ? Weights<Lanes256>(from, logits.Length, max, to)
                : Weights<Lanes128>(from, logits.Length, max, to);
        }
    }

    /// <summary>The same where logits and weights lie in native memory.</summary>
    internal static float Weights<TLanes>(float* logits, int count, float max, float* weights)
        where TLanes : unmanaged, ILanes<TLanes>
    {
        // The tail first, as no vector register, the running sum among them, survives a call. A missing lane is e^-infinity: 0.
        float* stage = stackalloc float[16];
        int whole = count & ~15;
        TLanes shift = TLanes.Broadcast(max);
        TLanes tail = Exponential.Exp(Tail.Load<TLanes, F32Element>((byte*)(logits + whole), count - whole, float.NegativeInfinity, (byte*)stage) - shift);
        TLanes.Store(tail, stage);
        Buffer.MemoryCopy(stage, weights + whole, 64, (count - whole) * sizeof(float));

        TLanes sum = TLanes.Zero;
        for (int i = 0; i < whole; i += 16)
        {
            TLanes weight = Exponential.Exp(TLanes.Load(logits + i) - shift);
            TLanes.Store(weight, weights + i);
            sum += weight;
        }

        return TLanes.Fold(sum + TLanes.Load(stage));
    }
}
