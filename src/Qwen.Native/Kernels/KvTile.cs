using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>A few positions' keys and values of a head in the registers of a warp, loaded from the paged cache straight into the places where mma wants them.</summary>
/// <remarks>
/// Lane 4g + t. Keys are the B operand of S = Q K^T: a lane has a position (8n + g) and, instead of the columns 2t, 2t + 1, 2t + 8, 2t + 9 of
/// every sixteen, up to 16 neighbouring bytes of it: a sum over the head's width may run in any order, if only the queries have the same.
/// Values are the A operand of O^T = V^T P^T: a lane has the positions 2t, 2t + 1, 2t + 8, 2t + 9 of sixteen, as the scores lie, and 16
/// neighbouring bytes of each, whose columns are rows of V^T; again any order does, if the result is written back in it. Registers of
/// two positions are made of words of one by byte permutes. So nothing passes through shared memory, accesses are 16 bytes wide and whole
/// sectors, and no barrier holds a warp up.
/// </remarks>
internal sealed class KvTile
{
    private readonly PtxBuilder _k;
    private readonly DecodeArguments _arguments;
    private readonly AttentionShape _shape;
    private readonly CacheHint _hint;
    private readonly U32[][] _keys; // [eighth of the tile][word]
    private readonly U32[][] _values; // [4 sixteenth + which of its four positions][word]
    private readonly F32 _keyScale, _valueScale; // S8: of position = lane
    private readonly U32 _group, _inGroup;
    private readonly int _stages;
    private readonly U32 _slot; // bytes from the ring's start to what is worked on
    private readonly Shared _ring; // this warp's: [stage][access][lane]

    /// <summary>Makes room.</summary>
    /// <param name="k">The kernel.</param>
    /// <param name="arguments">Its arguments.</param>
    /// <param name="shape">Its shape.</param>
    /// <param name="stages">Tiles of a warp that are on their way, to shared memory; 0 for one, to registers.</param>
    public KvTile(PtxBuilder k, DecodeArguments arguments, AttentionShape shape, int stages)
    {
        (_k, _arguments, _shape, _stages) = (k, arguments, shape, stages);
        if (stages > 0)
        {
            Ring = k.AllocateShared(k.Warps * RingBytes);
            _ring = Ring + (k.Warp * RingBytes);
            _slot = k.Variable<U32>(0);
        }

        _hint = k.Target.Has(PtxFeature.CacheHints) ? CacheHint.ReadOnce : CacheHint.ReadOnly;
        (_group, _inGroup) = (k.Lane >> 2, k.Lane & 3);
        _keys = Registers(Positions(shape) / 8, shape.RowBytes / 16);
        _values = Registers(Positions(shape) / 4, shape.RowBytes / 32);
        (_keyScale, _valueScale) = shape.Cache == ElementType.S8 ? (k.Variable<F32>(), k.Variable<F32>()) : default;
    }

    /// <summary>
    /// Positions of a tile: 4 KB of keys and as much of values at a width of 128, 64 registers in all (twice as much of F32; half of S8 with key bias,
    /// whose scales and biases take what registers are left).
    /// </summary>
    public static int Positions(AttentionShape shape) => shape.Cache.Bytes() == 1 ? 32 : 16;

    /// <summary>The ring, of <see cref="RingBytes"/> a warp. A warp's part is free when its run has ended.</summary>
    public Shared Ring { get; }

    /// <summary>Of a warp.</summary>
    public int RingBytes => _stages * StageBytes(_shape);

    /// <summary>Bytes of a tile, and of its scales.</summary>
    private static int StageBytes(AttentionShape shape) => (2 * Positions(shape) * shape.RowBytes) + (shape.Cache == ElementType.S8 ? 2 * 32 * sizeof(float) : 0);

    /// <summary>Steps of 16 columns that a score sums over.</summary>
    public int KeySteps => _shape.HeadDim / 16;

    /// <summary>Tiles of 16 columns of a value.</summary>
    public int ValueTiles => _shape.HeadDim / 16;

    /// <summary>The column of a lane's key that is the first of four of a step: constant + factor * t.</summary>
    public (int Constant, int Factor) KeyColumn(int step) => Column(step * 4, lanes: 4);

    /// <summary>The columns of a lane's value that a tile's rows g and (the next) g + 8 are: constant + factor * g.</summary>
    public (int Constant, int Factor) ValueColumn(int tile) => Column(tile * 2, lanes: 8);

    /// <summary>The blocks of the cached positions from a multiple of 16 on, 16 positions each. Those out of range are in the place of the nearest in range.</summary>
    public U32[] LoadBlocks(Global table, U32 position, DecodeSchedule.Place place)
    {
        var blocks = new U32[Positions(_shape) / 16];
        for (int i = 0; i < blocks.Length; i++)
            blocks[i] = _k.Load<U32>(table.At(Cached(position + (16 * i), place) / _shape.BlockSize, sizeof(int)), CacheHint.ReadOnly);
        return blocks;
    }

    /// <summary>Starts to load keys. The new token's is not cached yet.</summary>
    public void LoadKeys(U32[] blocks, U32 position, DecodeSchedule.Place place)
    {
        for (int n = 0; n < _keys.Length; n++)
            LoadRow(_keys[n], Row(_arguments.Keys, blocks[n / 2], Cached(position + (8 * n) + _group, place), place.Head), lanes: 4, _inGroup);
        LoadScale(_keyScale, _arguments.KeyScales, blocks, position, place);
    }

    /// <summary>Starts to load values. The new token's is not cached yet.</summary>
    public void LoadValues(U32[] blocks, U32 position, DecodeSchedule.Place place)
    {
        for (int i = 0; i < _values.Length; i++)
        {
            U32 at = position + ValuePosition(i);
            LoadRow(_values[i], Row(_arguments.Values, blocks[i / 4], Cached(at, place), place.Head), lanes: 8, _group);
        }

        LoadScale(_valueScale, _arguments.ValueScales, blocks, position, place);
    }

    /// <summary>Begins a run: the ring from its start.</summary>
    public void Rewind() => _k.Set(_slot, 0);

    /// <summary>Starts to copy a tile to the stage that is worked on, or, before that, to a later one.</summary>
    public void Copy(U32[] blocks, U32 position, DecodeSchedule.Place place, int stage = 0)
    {
        Shared slot = _ring + _slot + (stage * StageBytes(_shape));
        for (int n = 0; n < _keys.Length; n++)
            slot = CopyRow(slot, Row(_arguments.Keys, blocks[n / 2], Cached(position + (8 * n) + _group, place), place.Head), lanes: 4, _inGroup);
        for (int i = 0; i < _values.Length; i++)
            slot = CopyRow(slot, Row(_arguments.Values, blocks[i / 4], Cached(position + ValuePosition(i), place), place.Head), lanes: 8, _group);
        if (_shape.Cache != ElementType.S8)
            return;
        U32 scale = Scale(blocks, position, place);
        _k.CopyAsync(slot.At(_k.Lane, sizeof(float)), _arguments.KeyScales.At(scale, sizeof(float)), sizeof(float));
        _k.CopyAsync(slot.At(_k.Lane, sizeof(float)) + (32 * sizeof(float)), _arguments.ValueScales.At(scale, sizeof(float)), sizeof(float));
    }

    /// <summary>Reads the keys of the stage. A lane reads what it copied, so that no barrier is needed.</summary>
    public void ReadKeys()
    {
        Shared slot = _ring + _slot;
        foreach (U32[] row in _keys)
            slot = ReadRow(slot, row, lanes: 4);
        if (_shape.Cache == ElementType.S8)
            _k.LoadInto<F32>([_keyScale], ScaleSlot);
    }

    /// <summary>Likewise.</summary>
    public void ReadValues()
    {
        Shared slot = _ring + _slot + (Positions(_shape) * _shape.RowBytes);
        foreach (U32[] row in _values)
            slot = ReadRow(slot, row, lanes: 8);
        if (_shape.Cache == ElementType.S8)
            _k.LoadInto<F32>([_valueScale], ScaleSlot + (32 * sizeof(float)));
    }

    /// <summary>On to the next stage.</summary>
    public void Advance()
    {
        U32 next = _slot + StageBytes(_shape);
        _k.Set(_slot, _k.Select<U32>(next < _stages * StageBytes(_shape), next, 0));
    }

    /// <summary>Puts the new token's key and value where the tile has its position.</summary>
    public void Insert(NewToken token, U32 position, DecodeSchedule.Place place)
    {
        Shared slot = _stages > 0 ? _ring + _slot : default;
        for (int n = 0; n < _keys.Length; n++)
            slot = InsertRow(slot, _keys[n], token.Key, lanes: 4, _inGroup, IsNew(position + (8 * n) + _group, place));
        for (int i = 0; i < _values.Length; i++)
            slot = InsertRow(slot, _values[i], token.Value, lanes: 8, _group, IsNew(position + ValuePosition(i), place));
        if (_shape.Cache != ElementType.S8)
            return;
        Pred isNew = IsNew(position + InTile, place);
        _k.LoadInto<F32>([_keyScale], token.KeyScale, isNew);
        _k.LoadInto<F32>([_valueScale], token.ValueScale, isNew);
        if (_stages == 0)
            return;
        _k.Store(ScaleSlot, _keyScale, isNew);
        _k.Store(ScaleSlot + (32 * sizeof(float)), _valueScale, isNew);
    }

    /// <summary>Two registers of eight keys for a step of 16 columns.</summary>
    public U32[] Keys(int eighth, int step)
    {
        U32[] words = _keys[eighth];
        switch (_shape.Cache)
        {
            case ElementType.F16 or ElementType.BF16:
                return [words[2 * step], words[(2 * step) + 1]];
            case ElementType.F32:
                return [PackFloats(words[4 * step], words[(4 * step) + 1]), PackFloats(words[(4 * step) + 2], words[(4 * step) + 3])];
            default:
                (Half2 low, Half2 high) = _k.BytesToHalf2(_shape.Cache, words[step]);
                return [low.AsU32, high.AsU32];
        }
    }

    /// <summary>Four registers of sixteen values for 16 columns; <paramref name="scales"/> are <see cref="ValueScales"/>.</summary>
    public U32[] Values(int sixteenth, int tile, Half2[] scales)
    {
        var registers = new U32[4];
        for (int half = 0; half < 2; half++)
        {
            U32[] x = _values[(4 * sixteenth) + (2 * half)], y = _values[(4 * sixteenth) + (2 * half) + 1];
            (U32 first, U32 second) = Pair(x, y, tile);
            if (_shape.Cache == ElementType.S8)
                (first, second) = ((first.AsHalf2(ElementType.F16) * scales[half]).AsU32, (second.AsHalf2(ElementType.F16) * scales[half]).AsU32);
            (registers[2 * half], registers[(2 * half) + 1]) = (first, second);
        }

        return registers;
    }

    /// <summary>S8: the scale of key 8 eighth + 2t + which.</summary>
    public F32 KeyScale(int eighth, int which) => _k.ShuffleFrom(_keyScale, (_inGroup * 2) + ((8 * eighth) + which));

    /// <summary>S8: the scales of the pairs of positions of sixteen values. As F16: their values then are as exact as an F16 cache's.</summary>
    public Half2[] ValueScales(int sixteenth)
    {
        if (_shape.Cache != ElementType.S8)
            return [];
        F32 At(int position) => _k.ShuffleFrom(_valueScale, (_inGroup * 2) + ((16 * sixteenth) + position));
        return [_k.Pack(ElementType.F16, At(0), At(1)), _k.Pack(ElementType.F16, At(8), At(9))];
    }

    // Column of a lane's value number: the row is cut in chunks of 16, then 8, then 4 bytes a lane.
    private (int Constant, int Factor) Column(int value, int lanes)
    {
        int size = _shape.Cache.Bytes();
        foreach ((int offset, int laneBytes) in Chunks(_shape.RowBytes, lanes))
        {
            int values = laneBytes / size;
            if (value < values)
                return ((offset / size) + value, values);
            value -= values;
        }

        throw new ArgumentOutOfRangeException(nameof(value));
    }

    private static List<(int Offset, int LaneBytes)> Chunks(int rowBytes, int lanes)
    {
        var chunks = new List<(int, int)>();
        int offset = 0;
        for (int laneBytes = 16; offset < rowBytes; laneBytes /= 2)
        {
            for (; rowBytes - offset >= lanes * laneBytes; offset += lanes * laneBytes)
                chunks.Add((offset, laneBytes));
        }

        return chunks;
    }

    private void LoadRow(U32[] words, Global row, int lanes, U32 lane)
    {
        int word = 0;
        Global[] at = new Global[17]; // by bytes a lane
        foreach ((int offset, int laneBytes) in Chunks(_shape.RowBytes, lanes))
        {
            if (at[laneBytes].Base.Operand.Builder is null)
                at[laneBytes] = row.At(lane, laneBytes);
            _k.LoadInto<U32>(words.AsSpan(word, laneBytes / 4), at[laneBytes] + offset, _hint);
            word += laneBytes / 4;
        }
    }

    private Shared InsertRow(Shared slot, U32[] words, Shared row, int lanes, U32 lane, Pred when)
    {
        int word = 0;
        foreach ((int offset, int laneBytes) in Chunks(_shape.RowBytes, lanes))
        {
            Span<U32> part = words.AsSpan(word, laneBytes / 4);
            _k.LoadInto<U32>(part, row.At(lane, laneBytes) + offset, when);
            if (_stages > 0)
                _k.StoreVector<U32>(slot.At(_k.Lane, laneBytes), part, when);
            slot += 32 * laneBytes;
            word += laneBytes / 4;
        }

        return slot;
    }

    // Of a lane's value row: 2t, 2t + 1, 2t + 8, 2t + 9 of sixteen.
    private U32 ValuePosition(int row) => (_inGroup * 2) + ((16 * (row / 4)) + (8 * (row % 4 / 2)) + (row % 2));

    private Global Row(Global buffer, U32 block, U32 position, U32 head) =>
        buffer.At(((block * _shape.KvHeads + head) * _shape.BlockSize) + (position % _shape.BlockSize), _shape.RowBytes);

    // A row takes one piece of the slot for each access, with the lanes side by side.
    private Shared CopyRow(Shared slot, Global row, int lanes, U32 lane)
    {
        foreach ((int offset, int laneBytes) in Chunks(_shape.RowBytes, lanes))
        {
            _k.CopyAsync(slot.At(_k.Lane, laneBytes), row.At(lane, laneBytes) + offset, laneBytes);
            slot += 32 * laneBytes;
        }

        return slot;
    }

    private Shared ReadRow(Shared slot, U32[] words, int lanes)
    {
        int word = 0;
        foreach ((_, int laneBytes) in Chunks(_shape.RowBytes, lanes))
        {
            _k.LoadInto<U32>(words.AsSpan(word, laneBytes / 4), slot.At(_k.Lane, laneBytes));
            slot += 32 * laneBytes;
            word += laneBytes / 4;
        }

        return slot;
    }

    private Shared ScaleSlot => (_ring + _slot + (2 * Positions(_shape) * _shape.RowBytes)).At(_k.Lane, sizeof(float));

    private void LoadScale(F32 register, Global scales, U32[] blocks, U32 position, DecodeSchedule.Place place)
    {
        if (_shape.Cache == ElementType.S8)
            _k.LoadInto<F32>([register], scales.At(Scale(blocks, position, place), sizeof(float)));
    }

    // The number of the lane's scale.
    private U32 Scale(U32[] blocks, U32 position, DecodeSchedule.Place place)
    {
        U32 block = blocks.Length == 1 ? blocks[0] : _k.Select(_k.Lane < 16, blocks[0], blocks[1]);
        return ((block * _shape.KvHeads + place.Head) * _shape.BlockSize) + (Cached(position + InTile, place) % _shape.BlockSize);
    }

    private U32 InTile => _k.Lane % Positions(_shape); // whose scale a lane has

    // Positions outside what is attended to may have no block, or memory that nobody wrote: the nearest inside is read in their place, and weighs nothing. The
    // last one is the new token's; where there is no other, nothing is loaded, but its block is looked up.
    private U32 Cached(U32 position, DecodeSchedule.Place place) => After(_k.Min(position, _k.Max(place.To, 2) - 2), place);

    // What lies past the new token must be numbers, too, though they weigh nothing; where there is no other, so must what lies before.
    private Pred IsNew(U32 position, DecodeSchedule.Place place) => After(_k.Min(position, place.To - 1), place).Is(place.To - 1);

    private U32 After(U32 position, DecodeSchedule.Place place) => _shape.SlidingWindow == 0 ? position : _k.Max(position, place.From);

    // Columns 2 tile and the next of a lane's, each of positions x and y.
    private (U32 First, U32 Second) Pair(U32[] x, U32[] y, int tile)
    {
        switch (_shape.Cache)
        {
            case ElementType.F16 or ElementType.BF16:
                return (_k.Permute(x[tile], y[tile], 0x5410), _k.Permute(x[tile], y[tile], 0x7632));
            case ElementType.F32:
                return (PackFloats(x[2 * tile], y[2 * tile]), PackFloats(x[(2 * tile) + 1], y[(2 * tile) + 1]));
            default:
                (Half2 first, Half2 second) = _k.BytesToHalf2(_shape.Cache, _k.Permute(x[tile / 2], y[tile / 2], tile % 2 == 0 ? 0x5140 : 0x7362));
                return (first.AsU32, second.AsU32);
        }
    }

    private U32 PackFloats(U32 low, U32 high) => _k.Pack(_shape.Operands, _k.AsFloat(low), _k.AsFloat(high)).AsU32;

    private U32[][] Registers(int rows, int words) =>
        [.. Enumerable.Range(0, rows).Select(_ => Enumerable.Range(0, words).Select(_ => _k.Variable<U32>()).ToArray())];
}
