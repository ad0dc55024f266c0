using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// A head of a new token on its way to attention: a key without its bias, normed (Qwen3), rotated by the token's position (Su et al., 2021; pairs
/// (i, i + headDim / 2), as GPT-NeoX), quantized.
/// </summary>
/// <remarks>
/// Neighbouring lanes share a head, each with eight neighbouring values of both halves, 16 bytes each, so that a pair lies in one thread; norms and S8
/// scales are sums over these lanes. Constants can be asked for before the head: so before the kernel is done that makes it.
/// </remarks>
/// <param name="k">The kernel.</param>
/// <param name="shape">Its shape.</param>
internal sealed class TokenHead(PtxBuilder k, RopeAndStoreShape shape)
{
    private const int PerLane = 8; // of each half of a head

    private F32[] _values = [], _bias = [], _turns = [], _weights = []; // values and weights: of the lower half, then of the upper

    /// <summary>The lane among those of the head.</summary>
    public U32 Lane { get; } = k.Thread % shape.LanesPerHead;

    /// <summary>Whether the lane has values: not all do where a head's width is no power of two.</summary>
    public Pred And(Pred condition) => shape.LanesPerHead * 2 * PerLane == shape.HeadDim ? condition : condition & (Lane < shape.HeadDim / (2 * PerLane));

    /// <summary>Starts to load cosines and sines.</summary>
    /// <param name="rotations">F32 [headDim / 2][cos, sin], of the token's position.</param>
    /// <param name="isRotated">A query or a key.</param>
    public void LoadTurns(Global rotations, Pred isRotated) =>
        _turns = k.LoadElements(ElementType.F32, rotations.At(Lane, PerLane * 2 * sizeof(float)), 2 * PerLane, CacheHint.ReadOnly, isRotated);

    /// <summary>Starts to load the weights of the norm.</summary>
    public void LoadNorm(Global weights, Pred isRotated) => _weights = Load(ElementType.F32, weights, isRotated, CacheHint.ReadOnly);

    /// <summary>Starts to load the bias that a key is to be without.</summary>
    public void LoadBias(Global bias, Pred isKey) => _bias = Load(ElementType.F32, bias, isKey, CacheHint.ReadOnly);

    /// <summary>Loads the head.</summary>
    public void Load(Global head, Pred exists) => _values = Load(shape.Type, head, exists);

    /// <summary>Takes off the bias, norms, rotates.</summary>
    public void Turn(Pred isRotated, F32 epsilon)
    {
        for (int i = 0; i < _bias.Length; i++)
            k.AddInto(_values[i], -_bias[i]);

        F32 inverse = 1f;
        if (shape.HasQkNorm)
        {
            F32 squares = k.Variable<F32>(0f);
            foreach (F32 value in _values)
                k.FmaInto(squares, value, value);
            inverse = k.ReciprocalSquareRoot((k.SumLanes(squares, shape.LanesPerHead) * (1f / shape.HeadDim)) + epsilon);
        }

        using (k.If(isRotated))
        {
            for (int i = 0; i < _weights.Length; i++)
                k.Set(_values[i], (_values[i] * inverse) * _weights[i]);
            for (int i = 0; i < PerLane; i++)
            {
                (F32 a, F32 b, F32 cos, F32 sin) = (_values[i], _values[PerLane + i], _turns[2 * i], _turns[(2 * i) + 1]);
                F32 first = (a * cos) - (b * sin);
                k.Set(b, (b * cos) + (a * sin));
                k.Set(a, first);
            }
        }
    }

    /// <summary>S8: values become codes; their scale.</summary>
    public F32 Quantize()
    {
        F32 largest = k.ReduceLanes(_values.Select(k.Abs).Aggregate(k.MaxOrNaN), shape.LanesPerHead, k.MaxOrNaN);
        F32 factor = k.Select(largest < 1e-30f, 0f, k.DivideExactly(127f, largest));
        foreach (F32 value in _values)
            k.MultiplyInto(value, factor);
        return k.DivideExactly(largest, 127f);
    }

    /// <summary>Stores the head as a type.</summary>
    public void Store(ElementType type, Global head, Pred when)
    {
        Global lower = head.At(Lane, PerLane * type.Bytes());
        k.StoreElements(type, lower, _values.AsSpan(0, PerLane), when);
        k.StoreElements(type, lower + (shape.HeadDim / 2 * type.Bytes()), _values.AsSpan(PerLane), when);
    }

    /// <summary>Words of a type: of the lower half, then of the upper.</summary>
    public U32[] Words(ElementType type) => k.Encode(type, _values);

    /// <summary>Stores such words as a head, in accesses of 8 bytes.</summary>
    public void Store(Shared head, U32[] words, Pred when)
    {
        int half = words.Length / 2, laneBytes = half * sizeof(uint);
        for (int i = 0; i < words.Length; i += 2)
            k.StoreVector<U32>(head.At(Lane, laneBytes) + ((i / half * (shape.HeadDim / (2 * PerLane) * laneBytes)) + (i % half * sizeof(uint))), words.AsSpan(i, 2), when);
    }

    private F32[] Load(ElementType type, Global head, Pred when, CacheHint hint = CacheHint.None)
    {
        Global lower = head.At(Lane, PerLane * type.Bytes());
        return [.. k.LoadElements(type, lower, PerLane, hint, when), .. k.LoadElements(type, lower + (shape.HeadDim / 2 * type.Bytes()), PerLane, hint, when)];
    }
}
