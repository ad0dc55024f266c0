using System.Numerics;
using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// Of qkv[t, query | key | value]: norms query and key heads (Qwen3), rotates them by the token's position (Su et al., 2021; pairs
/// (i, i + headDim / 2), as GPT-NeoX), leaves queries where they were and puts keys and values into their slot of the paged cache.
/// </summary>
/// <remarks>
/// Memory-bound. A lane has eight neighbouring values of each half of a head, 16 bytes each, so that a pair lies in one thread; the lanes of a head
/// are neighbours, which norms and S8 scales sum over. A quantized cache may hold keys without their bias, which attention then adds.
/// </remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="shape">What tells variants apart.</param>
public sealed class RopeAndStoreKernel(KernelCache cache, RopeAndStoreShape shape) : Kernel(cache, Build(cache.Target, shape))
{
    private const int BlockThreads = 128, PerLane = 8; // of each half of a head

    /// <summary>The kernel for a shape.</summary>
    public static PtxKernel Build(PtxTarget target, RopeAndStoreShape shape)
    {
        ArgumentNullException.ThrowIfNull(shape);
        (ElementType type, ElementType stored, int heads, int kvHeads, int headDim) = (shape.Type, shape.Cache, shape.Heads, shape.KvHeads, shape.HeadDim);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)(headDim - 16), 240u, nameof(shape));
        ArgumentOutOfRangeException.ThrowIfNotEqual(headDim % 16, 0, nameof(shape));
        ArgumentOutOfRangeException.ThrowIfNotEqual(BitOperations.IsPow2(shape.BlockSize), true, nameof(shape));
        if (shape is { HasQkNorm: true, HasKeyBias: true })
            throw new ArgumentException("A key that is normed has no bias to take off.", nameof(shape));
        string norm = shape.HasQkNorm ? "_norm" : "", unbiased = shape.HasKeyBias ? "_unbiased" : "";
        var k = new PtxBuilder(target, $"rope_store_{PtxBuilder.Name(type)}_{PtxBuilder.Name(stored)}_{heads}_{kvHeads}_{headDim}_{shape.BlockSize}{norm}{unbiased}", BlockThreads);
        Global qkv = k.Pointer("qkv"), positions = k.Pointer("positions"), slots = k.Pointer("slots"), rotations = k.Pointer("rotations");
        Global keys = k.Pointer("keys"), values = k.Pointer("values"), keyScales = k.Pointer("key_scales"), valueScales = k.Pointer("value_scales");
        Global queryNorm = k.Pointer("query_norm"), keyNorm = k.Pointer("key_norm"), keyBias = k.Pointer("key_bias");
        F32 epsilon = k.Float("epsilon");

        U32 token = k.BlockX, head = (k.BlockY * (k.Threads / shape.LanesPerHead)) + (k.Thread / shape.LanesPerHead), lane = k.Thread % shape.LanesPerHead;
        Pred inside = head < heads + (2 * kvHeads);
        if (shape.LanesPerHead * 2 * PerLane != headDim)
            inside &= lane < headDim / (2 * PerLane);
        Pred isQuery = (head < heads) & inside, isRotated = (head < heads + kvHeads) & inside, isKey = isRotated & !isQuery;
        k.WaitForPreviousKernel();

        Global lower = qkv.At(token, (heads + (2 * kvHeads)) * headDim * type.Bytes()).At(head, headDim * type.Bytes()).At(lane, PerLane * type.Bytes());
        Global upper = lower + (headDim / 2 * type.Bytes());
        F32[] a = k.LoadElements(type, lower, PerLane, when: inside), b = k.LoadElements(type, upper, PerLane, when: inside);
        F32[] both = [.. a, .. b];
        if (shape.HasKeyBias)
        {
            F32[] bias = OfHead(keyBias.At(head - heads, headDim * sizeof(float)), isKey);
            for (int i = 0; i < both.Length; i++)
                k.AddInto(both[i], -bias[i]);
        }

        F32 inverse = 1f;
        if (shape.HasQkNorm)
        {
            F32 squares = k.Variable<F32>(0f);
            foreach (F32 value in both)
                k.FmaInto(squares, value, value);
            inverse = k.ReciprocalSquareRoot((k.SumLanes(squares, shape.LanesPerHead) * (1f / headDim)) + epsilon);
        }

        using (k.If(isRotated))
        {
            if (shape.HasQkNorm)
            {
                F32[] weights = OfHead(new Global(k.Select(isQuery, queryNorm.Base, keyNorm.Base)), null);
                for (int i = 0; i < both.Length; i++)
                    k.Set(both[i], (both[i] * inverse) * weights[i]);
            }

            Global pairs = rotations.At(k.Load<U32>(positions.At(token, sizeof(int))), headDim / 2 * 2 * sizeof(float)).At(lane, PerLane * 2 * sizeof(float));
            for (int i = 0; i < PerLane; i += 2)
            {
                F32[] angles = k.LoadVector<F32>(pairs + (i * 2 * sizeof(float)), 4, CacheHint.ReadOnly); // cos, sin, cos, sin
                Rotate(i, angles[0], angles[1]);
                Rotate(i + 1, angles[2], angles[3]);
            }
        }

        k.StoreElements(type, lower, a, isQuery);
        k.StoreElements(type, upper, b, isQuery);

        // A negative slot is no slot: rows that only fill up a batch store nothing.
        U32 slot = k.Load<U32>(slots.At(token, sizeof(int)));
        Pred stores = inside & !isQuery & (slot.AsS32 >= 0);
        U32 kvHead = k.Select(isKey, head - heads, head - (heads + kvHeads));
        U32 vector = (((slot / shape.BlockSize) * kvHeads + kvHead) * shape.BlockSize) + (slot % shape.BlockSize);
        if (stored == ElementType.S8)
        {
            F32 largest = k.ReduceLanes(both.Select(k.Abs).Aggregate(k.MaxOrNaN), shape.LanesPerHead, k.MaxOrNaN);
            F32 factor = k.Select(largest < 1e-30f, 0f, k.DivideExactly(127f, largest));
            foreach (F32 value in both)
                k.MultiplyInto(value, factor);
            Global scales = new Global(k.Select(isKey, keyScales.Base, valueScales.Base)).At(vector, sizeof(float));
            k.Store(scales, k.DivideExactly(largest, 127f), stores & lane.Is(0));
        }

        Global to = new Global(k.Select(isKey, keys.Base, values.Base)).At(vector, headDim * stored.Bytes()).At(lane, PerLane * stored.Bytes());
        k.StoreElements(stored, to, a, stores);
        k.StoreElements(stored, to + (headDim / 2 * stored.Bytes()), b, stores);
        return k.Build();

        // This lane's values of an F32 vector of a head's width.
        F32[] OfHead(Global vector, Pred? when)
        {
            Global mine = vector.At(lane, PerLane * sizeof(float));
            return [.. k.LoadElements(ElementType.F32, mine, PerLane, CacheHint.ReadOnly, when), .. k.LoadElements(ElementType.F32, mine + (headDim / 2 * sizeof(float)), PerLane, CacheHint.ReadOnly, when)];
        }

        void Rotate(int i, F32 cos, F32 sin)
        {
            F32 first = (a[i] * cos) - (b[i] * sin);
            k.Set(b[i], (b[i] * cos) + (a[i] * sin));
            k.Set(a[i], first);
        }
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="qkv">[tokens, (heads + 2 kvHeads) headDim]; queries are written.</param>
    /// <param name="positions">S32 [tokens], each a row of the rotations.</param>
    /// <param name="slots">S32 [tokens]: block * blockSize + offset; negative to store nothing.</param>
    /// <param name="rotations">F32 [positions][headDim / 2][cos, sin].</param>
    /// <param name="layer">The cache.</param>
    /// <param name="tokens">Rows of qkv.</param>
    /// <param name="queryNorm">F32 [headDim], with norms.</param>
    /// <param name="keyNorm">F32 [headDim], with norms.</param>
    /// <param name="epsilon">Of the norms.</param>
    /// <param name="keyBias">F32 [kvHeads, headDim], where keys are stored without it.</param>
    public void Launch(
        IDeviceStream stream, DevicePointer qkv, DevicePointer positions, DevicePointer slots, DevicePointer rotations, in KvLayerPointers layer, int tokens,
        DevicePointer queryNorm = default, DevicePointer keyNorm = default, float epsilon = 0, DevicePointer keyBias = default)
    {
        int perBlock = Threads / shape.LanesPerHead, heads = shape.Heads + (2 * shape.KvHeads);
        Launch(
            stream, new Dim3(tokens, (heads + perBlock - 1) / perBlock),
            [
                Argument.Of(qkv), Argument.Of(positions), Argument.Of(slots), Argument.Of(rotations),
                Argument.Of(layer.Keys), Argument.Of(layer.Values), Argument.Of(layer.KeyScales), Argument.Of(layer.ValueScales),
                Argument.Of(queryNorm), Argument.Of(keyNorm), Argument.Of(keyBias), Argument.Of(epsilon),
            ],
            overlapPrevious: true);
    }
}

/// <summary>What tells variants of <see cref="RopeAndStoreKernel"/> apart.</summary>
/// <param name="Type">Type of qkv: F16 or BF16.</param>
/// <param name="Cache">Type of the cache: F32, F16, BF16, E4M3, E5M2 or S8.</param>
/// <param name="Heads">Query heads.</param>
/// <param name="KvHeads">Key and value heads.</param>
/// <param name="HeadDim">Width of a head: a multiple of 16, at most 256.</param>
/// <param name="BlockSize">Slots of a block, a power of two.</param>
/// <param name="HasQkNorm">Query and key heads are normed.</param>
/// <param name="HasKeyBias">Keys are stored without their bias.</param>
public sealed record RopeAndStoreShape(
    ElementType Type, ElementType Cache, int Heads, int KvHeads, int HeadDim, int BlockSize, bool HasQkNorm = false, bool HasKeyBias = false)
{
    /// <summary>Lanes that have a head: each 16 of its values, of a power of two.</summary>
    internal int LanesPerHead => (int)BitOperations.RoundUpToPowerOf2((uint)(HeadDim / 16));
}
