using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>The token that a sequence decodes: the queries of a group, rotated, and its key and value as the cache holds them, in shared memory.</summary>
/// <remarks>
/// Every block that attends to a head turns its queries itself; the block that has the head's last round also makes the new key and value, puts them into
/// the cache for the steps to come, and attends to the copies in shared memory. So no kernel goes before, and no block waits for another's store.
/// </remarks>
internal sealed class NewToken
{
    private readonly PtxBuilder _k;
    private readonly DecodeArguments _arguments;
    private readonly AttentionShape _shape;
    private readonly Part[] _parts;

    /// <summary>Takes shared memory.</summary>
    public NewToken(PtxBuilder k, DecodeArguments arguments, AttentionShape shape)
    {
        (_k, _arguments, _shape) = (k, arguments, shape);
        RopeAndStoreShape turned = shape.RopeAndStore;
        int heads = shape.Group + 2, perPart = k.Threads / turned.LanesPerHead;
        _parts = [.. Enumerable.Range(0, (heads + perPart - 1) / perPart).Select(i => new Part(new TokenHead(k, turned), (k.Thread / turned.LanesPerHead) + (i * perPart)))];
        Queries = k.AllocateShared(shape.Group * QueryRowBytes);
        Key = k.AllocateShared(shape.RowBytes);
        Value = k.AllocateShared(shape.RowBytes);
        (KeyScale, ValueScale) = shape.Cache == ElementType.S8 ? (k.AllocateShared(sizeof(float)), k.AllocateShared(sizeof(float))) : default;
    }

    /// <summary>The group's queries, rounded to the activations' type, as operands, <see cref="QueryRowBytes"/> apart.</summary>
    public Shared Queries { get; }

    /// <summary>Eight bytes of padding: lanes that read four rows at once meet different banks.</summary>
    public int QueryRowBytes => (_shape.HeadDim * sizeof(ushort)) + 8;

    /// <summary>The key as the cache holds it, where the block has the head's last round.</summary>
    public Shared Key { get; }

    /// <summary>Likewise.</summary>
    public Shared Value { get; }

    /// <summary>S8: its scale.</summary>
    public Shared KeyScale { get; }

    /// <summary>Likewise.</summary>
    public Shared ValueScale { get; }

    /// <summary>Starts to load what no kernel of the step writes. All threads.</summary>
    /// <param name="place">The head.</param>
    /// <param name="makesRow">Whether the block makes its key and value.</param>
    public void Begin(DecodeSchedule.Place place, Pred makesRow)
    {
        Global turns = _arguments.Rotations.At(place.To - 1, _shape.HeadDim * sizeof(float));
        foreach ((TokenHead head, U32 nth) in _parts)
        {
            (Pred isQuery, Pred isKey, _) = Kinds(head, nth, makesRow);
            Pred isRotated = isQuery | isKey;
            head.LoadTurns(turns, isRotated);
            if (_shape.HasQkNorm)
                head.LoadNorm(new Global(_k.Select(isQuery, _arguments.QueryNorm.Base, _arguments.KeyNorm.Base)), isRotated);
            if (_shape.HasKeyBias)
                head.LoadBias(_arguments.KeyBias.At(place.Head, _shape.HeadDim * sizeof(float)), isKey);
        }
    }

    /// <summary>Makes them, from what the kernel before wrote. All threads; a barrier must follow.</summary>
    /// <param name="place">As before.</param>
    /// <param name="table">The sequence's blocks.</param>
    /// <param name="makesRow">As before.</param>
    public void Turn(DecodeSchedule.Place place, Global table, Pred makesRow)
    {
        Global row = _arguments.Qkv.At(place.Token, _shape.QkvWidth * sizeof(ushort));
        foreach ((TokenHead head, U32 nth) in _parts)
        {
            (Pred isQuery, Pred isKey, Pred isValue) = Kinds(head, nth, makesRow);
            U32 number = _k.Select(isQuery, (place.Head * _shape.Group) + nth, (place.Head + _shape.Heads) + _k.Select<U32>(isKey, 0, _shape.KvHeads));
            head.Load(row.At(number, _shape.HeadDim * sizeof(ushort)), isQuery | isKey | isValue);
            head.Turn(isQuery | isKey, _arguments.Epsilon);
            head.Store(Queries.At(nth, QueryRowBytes), QueryRows.Operands(_k, _shape, head.Words(_shape.Type)), isQuery);
            using (_k.If(makesRow, uniform: true))
                Store(head, isKey, isKey | isValue, place, table);
        }
    }

    private void Store(TokenHead head, Pred isKey, Pred stores, DecodeSchedule.Place place, Global table)
    {
        U32 last = place.To - 1, block = _k.Load<U32>(table.At(last / _shape.BlockSize, sizeof(int)), CacheHint.ReadOnly);
        U32 vector = ((block * _shape.KvHeads + place.Head) * _shape.BlockSize) + (last % _shape.BlockSize);
        if (_shape.Cache == ElementType.S8)
        {
            F32 scale = head.Quantize();
            Pred isFirst = stores & head.Lane.Is(0);
            _k.Store(new Global(_k.Select(isKey, _arguments.KeyScales.Base, _arguments.ValueScales.Base)).At(vector, sizeof(float)), scale, isFirst);
            _k.Store(Either(isKey, KeyScale, ValueScale), scale, isFirst);
        }

        head.Store(_shape.Cache, new Global(_k.Select(isKey, _arguments.Keys.Base, _arguments.Values.Base)).At(vector, _shape.RowBytes), stores);
        head.Store(Either(isKey, Key, Value), head.Words(_shape.Cache), stores);
    }

    private Shared Either(Pred isKey, Shared key, Shared value) => new(key.Base + _k.Select<U32>(isKey, key.Offset, value.Offset));

    // What a lane has a part of: the group's queries, then the key, then the value.
    private (Pred IsQuery, Pred IsKey, Pred IsValue) Kinds(TokenHead head, U32 nth, Pred makesRow)
    {
        Pred exists = head.And(nth < (_shape.Group + 2));
        return (exists & (nth < _shape.Group), exists & nth.Is(_shape.Group) & makesRow, exists & nth.Is(_shape.Group + 1) & makesRow);
    }

    /// <summary>As many heads as the block's lanes have at once.</summary>
    private sealed record Part(TokenHead Head, U32 Nth);
}
