using System.Numerics;
using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>The warp group of <see cref="PrefillWarpGroups"/> that brings keys and values from the paged cache.</summary>
internal sealed class PrefillProducers
{
    private const int Threads = 128, PanelColumns = 64;

    private readonly PtxBuilder _k;
    private readonly AttentionShape _shape;
    private readonly PrefillBlock _block;
    private readonly PrefillStages _stages;
    private readonly int _positions, _panels;
    private readonly U32 _start;
    private readonly PrefillConversion[] _conversions = []; // of keys and values

    /// <summary>Takes shared memory. A barrier must follow.</summary>
    /// <param name="k">The kernel.</param>
    /// <param name="shape">Its shape.</param>
    /// <param name="block">What it works on.</param>
    /// <param name="positions">Of a tile.</param>
    /// <param name="start">The first tile's first position.</param>
    /// <param name="consumers">Warps that use the tiles.</param>
    public PrefillProducers(PtxBuilder k, AttentionShape shape, PrefillBlock block, int positions, U32 start, int consumers)
    {
        (_k, _shape, _block, _positions, _start, _panels) = (k, shape, block, positions, start, shape.HeadDim / PanelColumns);
        bool copies = shape.Cache.Bytes() == 2;
        _stages = Stages = new PrefillStages(k, new MatrixLayout(positions, shape.HeadDim * sizeof(ushort)), copies ? Threads / 2 : Threads, consumers);
        if (!copies)
            _conversions = [new(k, block, shape, areKeys: true), new(k, block, shape, areKeys: false)];
    }

    /// <summary>Where the tiles come to.</summary>
    public PrefillStages Stages { get; }

    /// <summary>All tiles of the block, by the first warp group.</summary>
    public void Emit()
    {
        if (_conversions.Length == 0)
            Copy();
        else
            Convert();
    }

    /// <summary>Sixteen bits as they are: two warps bring keys, two values. A thread has one chunk of 16 bytes, in each panel, of every eighth row.</summary>
    private void Copy()
    {
        U32 kind = _k.Warp >> 1, thread = _k.Thread % (Threads / 2), row = thread >> 3, chunk = thread & 7;
        MatrixLayout layout = _stages.Layout;
        Global from = new Global(_k.Select(kind.Is(0), _block.Arguments.Keys.Base, _block.Arguments.Values.Base)).At(chunk, 16);
        Shared to = _stages.First(kind) + layout.Offset(row, chunk);
        U32 tile = _k.Variable<U32>(0);
        using (_k.For(_start, _block.Last + 1, _positions, out U32 position))
        {
            _stages.WaitForRoom(kind, tile);
            Shared tileAt = to + _stages.Further(tile);
            for (int sixteen = 0; sixteen < _positions; sixteen += 16)
            {
                // Positions 16 apart have blocks of their own, those in between don't.
                U32 block = _block.BlockOf(_block.InRange(position + row + sixteen));
                for (int eight = sixteen; eight < sixteen + 16; eight += 8)
                {
                    Global vector = from.At(_block.Vector(_block.InRange(position + row + eight), block), _shape.RowBytes);
                    for (int panel = 0; panel < _panels; panel++)
                        _k.CopyAsync(tileAt + ((panel * layout.PanelBytes) + (eight * layout.PanelWidth)), vector + (panel * layout.PanelWidth), 16);
                }
            }

            _k.CommitCopies();
            _k.WaitForCopies(0);
            _stages.Publish(kind, tile);
            _k.AddInto(tile, 1);
        }
    }

    /// <summary>
    /// Bytes, by all threads: keys of tile t, then values of tile t - 1, loaded to registers a round before they are converted. A thread has sixteen columns of rows so far apart
    /// that the threads between them have all of those. Eight lanes store neighbouring rows' chunks of one panel, in different banks.
    /// </summary>
    private void Convert()
    {
        U32 chunk = (_k.Thread & 3) + (((_k.Thread >> 3) & (_panels - 1)) * 4), row = ((_k.Thread >> 2) & 1) + ((_k.Thread >> (3 + BitOperations.Log2((uint)_panels))) * 2);
        int rowsAtOnce = Threads / (4 * _panels), perThread = _positions / rowsAtOnce;
        (U32[] Words, F32 Scale)[][] codes = [.. Enumerable.Range(0, 2).Select(_ => Enumerable.Range(0, perThread).Select(_ => (Enumerable.Range(0, 4).Select(_ => _k.Variable<U32>()).ToArray(), _k.Variable<F32>())).ToArray())];
        (Global Codes, Global Scales)[] from = [(_block.Arguments.Keys, _block.Arguments.KeyScales), (_block.Arguments.Values, _block.Arguments.ValueScales)];
        MatrixLayout layout = _stages.Layout;
        Shared[][] to = [.. Enumerable.Range(0, 2).Select(kind => (Shared[])[_stages.First(kind) + layout.Offset(row, chunk * 2), _stages.First(kind) + layout.Offset(row, (chunk * 2) + 1)])];
        U32 tile = _k.Variable<U32>(0), position = _k.Variable(_start);
        bool loadsAhead = !_shape.HasKeyBias; // values, whose registers keys and their bias need
        Load(0, position);
        if (loadsAhead)
            Load(1, position);
        using (_k.While(() => position <= _block.Last + _positions))
        {
            using (_k.If(position <= _block.Last, uniform: true))
            {
                Store(0, tile, position);
                Load(0, position + _positions);
            }

            using (_k.If(tile.IsNot(0), uniform: true))
            {
                if (!loadsAhead)
                    Load(1, position - _positions);
                Store(1, tile - 1, position - _positions);
                if (loadsAhead)
                    Load(1, position);
            }

            _k.AddInto(tile, 1);
            _k.AddInto(position, _positions);
        }

        void Load(int kind, U32 first)
        {
            for (int i = 0; i < perThread; i++)
            {
                U32 at = _block.InRange(first + row + (i * rowsAtOnce)), vector = _block.Vector(at, _block.BlockOf(at));
                _k.LoadInto<U32>(codes[kind][i].Words, from[kind].Codes.At(vector, _shape.RowBytes).At(chunk, 16));
                if (_shape.Cache == ElementType.S8)
                    _k.LoadInto<F32>([codes[kind][i].Scale], from[kind].Scales.At(vector, sizeof(float)));
            }
        }

        void Store(int kind, U32 of, U32 first)
        {
            _stages.WaitForRoom(kind, of);
            U32 further = _stages.Further(of);
            for (int i = 0; i < perThread; i++)
            {
                U32[] operands = _conversions[kind].Operands(codes[kind][i].Words, codes[kind][i].Scale, chunk, _block.InRange(first + row + (i * rowsAtOnce)));
                for (int half = 0; half < 2; half++)
                    _k.StoreVector<U32>(to[kind][half] + further + (i * rowsAtOnce * layout.PanelWidth), operands.AsSpan(4 * half, 4));
            }

            _stages.Publish(kind, of);
        }
    }
}
