using System.Numerics;
using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// Of qkv[t, query | key | value]: norms query and key heads (Qwen3), rotates them by the token's position, leaves queries where they were and
/// puts keys and values into their slot of the paged cache, each as <see cref="TokenHead"/> does it.
/// </summary>
/// <remarks>
/// Memory-bound. A quantized cache may hold keys without their bias, which attention then adds. Tokens that are decoded are left to
/// <see cref="DecodeAttentionKernel"/>, which does the same to them.
/// </remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="shape">What tells variants apart.</param>
public sealed class RopeAndStoreKernel(KernelCache cache, RopeAndStoreShape shape) : Kernel(cache, Build(cache.Target, shape))
{
    private const int BlockThreads = 128;

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

        var turned = new TokenHead(k, shape);
        U32 token = k.BlockX, head = (k.BlockY * (k.Threads / shape.LanesPerHead)) + (k.Thread / shape.LanesPerHead);
        Pred inside = turned.And(head < heads + (2 * kvHeads));
        Pred isQuery = (head < heads) & inside, isRotated = (head < heads + kvHeads) & inside, isKey = isRotated & !isQuery;
        if (shape.HasKeyBias)
            turned.LoadBias(keyBias.At(head - heads, headDim * sizeof(float)), isKey);
        if (shape.HasQkNorm)
            turned.LoadNorm(new Global(k.Select(isQuery, queryNorm.Base, keyNorm.Base)), isRotated);
        k.WaitForPreviousKernel();

        Global row = qkv.At(token, (heads + (2 * kvHeads)) * headDim * type.Bytes()).At(head, headDim * type.Bytes());
        turned.Load(row, inside);
        S32 position = k.Load<S32>(positions.At(token, sizeof(int)));
        turned.LoadTurns(rotations.At(k.Max(position, 0).AsU32, headDim / 2 * 2 * sizeof(float)), isRotated);
        turned.Turn(isRotated, epsilon);
        Pred isOurs = position >= 0;
        turned.Store(type, row, isQuery & isOurs);

        // A negative slot is no slot: rows that only fill up a batch store nothing.
        U32 slot = k.Load<U32>(slots.At(token, sizeof(int)));
        Pred stores = inside & !isQuery & isOurs & (slot.AsS32 >= 0);
        U32 kvHead = k.Select(isKey, head - heads, head - (heads + kvHeads));
        U32 vector = (((slot / shape.BlockSize) * kvHeads + kvHead) * shape.BlockSize) + (slot % shape.BlockSize);
        if (stored == ElementType.S8)
            k.Store(new Global(k.Select(isKey, keyScales.Base, valueScales.Base)).At(vector, sizeof(float)), turned.Quantize(), stores & turned.Lane.Is(0));
        turned.Store(stored, new Global(k.Select(isKey, keys.Base, values.Base)).At(vector, headDim * stored.Bytes()), stores);
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="qkv">[tokens, (heads + 2 kvHeads) headDim]; queries are written.</param>
    /// <param name="positions">S32 [tokens], each a row of the rotations; negative to leave a token as it is.</param>
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
