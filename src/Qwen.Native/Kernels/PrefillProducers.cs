using System.Numerics;
using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>The warp group of <see cref="PrefillWarpGroups"/> that brings keys and values from the paged cache.</summary>
internal sealed class PrefillProducers
{
    private const int Threads = 128, PanelColumns = 64, BarrierId = 5; // 1 to 4 are the consumers'

    private readonly PtxBuilder _k;
    private readonly AttentionShape _shape;
    private readonly AttentionArguments _arguments;
    private readonly PrefillStages _stages;
    private readonly int _positions, _panels;
    private readonly PrefillConversion[] _conversions = []; // of keys and values

    /// <summary>Takes shared memory.</summary>
    /// <param name="k">The kernel.</param>
    /// <param name="shape">Its shape.</param>
    /// <param name="arguments">Its arguments.</param>
    /// <param name="positions">Of a tile.</param>
    /// <param name="consumers">Warps that use the tiles.</param>
    public PrefillProducers(PtxBuilder k, AttentionShape shape, AttentionArguments arguments, int positions, int consumers)
    {
        (_k, _shape, _arguments, _positions, _panels) = (k, shape, arguments, positions, shape.HeadDim / PanelColumns);
        bool copies = shape.Cache.Bytes() == 2;
        _stages = Stages = new PrefillStages(k, new MatrixLayout(positions, shape.HeadDim * sizeof(ushort)), copies ? Threads / 2 : Threads, consumers);
        if (!copies)
            _conversions = [new(k, shape, arguments, areKeys: true), new(k, shape, arguments, areKeys: false)];
    }

    /// <summary>Where the tiles come to.</summary>
    public PrefillStages Stages { get; }

    /// <summary>All tiles of all that the block works on, by the first warp group.</summary>
    /// <param name="forEach">Emits what is done for each work.</param>
    public void Emit(Action<Action<PrefillBlock>> forEach)
    {
        if (_conversions.Length == 0)
            Copy(forEach);
        else
            Convert(forEach);
    }

    /// <summary>Sixteen bits as they are: two warps bring keys, two values. A thread has one chunk of 16 bytes, in each panel, of every eighth row.</summary>
    private void Copy(Action<Action<PrefillBlock>> forEach)
    {
        U32 kind = _k.Warp >> 1, thread = _k.Thread % (Threads / 2), row = thread >> 3, chunk = thread & 7;
        MatrixLayout layout = _stages.Layout;
        Global from = new Global(_k.Select(kind.Is(0), _arguments.Keys.Base, _arguments.Values.Base)).At(chunk, 16);
        Shared to = _stages.First(kind) + layout.Offset(row, chunk);
        U32 tile = _k.Variable<U32>(0);
        forEach(work =>
        {
            using (_k.For(work.From / _positions * _positions, work.Last + 1, _positions, out U32 position))
                CopyTile(work, position);
        });

        void CopyTile(PrefillBlock work, U32 position)
        {
            _stages.WaitForRoom(kind, tile);
            Shared tileAt = to + _stages.Further(tile);
            for (int sixteen = 0; sixteen < _positions; sixteen += 16)
            {
                // Positions 16 apart have blocks of their own, those in between don't.
                U32 block = work.BlockOf(work.InRange(position + row + sixteen));
                for (int eight = sixteen; eight < sixteen + 16; eight += 8)
                {
                    Global vector = from.At(work.Vector(work.InRange(position + row + eight), block), _shape.RowBytes);
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
    private void Convert(Action<Action<PrefillBlock>> forEach)
    {
        U32 chunk = (_k.Thread & 3) + (((_k.Thread >> 3) & (_panels - 1)) * 4), row = ((_k.Thread >> 2) & 1) + ((_k.Thread >> (3 + BitOperations.Log2((uint)_panels))) * 2);
        int rowsAtOnce = Threads / (4 * _panels), perThread = _positions / rowsAtOnce;
        (U32[] Words, F32 Scale)[][] codes = [.. Enumerable.Range(0, 2).Select(_ => Enumerable.Range(0, perThread).Select(_ => (Enumerable.Range(0, 4).Select(_ => _k.Variable<U32>()).ToArray(), _k.Variable<F32>())).ToArray())];
        (Global Codes, Global Scales)[] from = [(_arguments.Keys, _arguments.KeyScales), (_arguments.Values, _arguments.ValueScales)];
        MatrixLayout layout = _stages.Layout;
        Shared[][] to = [.. Enumerable.Range(0, 2).Select(kind => (Shared[])[_stages.First(kind) + layout.Offset(row, chunk * 2), _stages.First(kind) + layout.Offset(row, (chunk * 2) + 1)])];
        U32 tile = _k.Variable<U32>(0), position = _k.Variable<U32>();
        bool loadsAhead = !_shape.HasKeyBias; // values, whose registers keys and their bias need
        forEach(work =>
        {
            U32 start = work.From / _positions * _positions;
            _k.Set(position, start);
            Load(work, 0, position);
            if (loadsAhead)
                Load(work, 1, position);
            if (_shape.HasKeyBias)
            {
                _k.Barrier(BarrierId, Threads); // the bias of the head before is used up
                _conversions[0].LoadBias(work.Head, _k.Thread, Threads);
                _k.Barrier(BarrierId, Threads);
            }

            using (_k.While(() => position <= work.Last + _positions))
            {
                using (_k.If(position <= work.Last, uniform: true))
                {
                    Store(work, 0, tile, position);
                    Load(work, 0, position + _positions);
                    _k.AddInto(tile, 1);
                }

                using (_k.If(position.IsNot(start), uniform: true))
                {
                    U32 ofValues = tile - _k.Select<U32>(position <= work.Last, 2, 1);
                    if (!loadsAhead)
                        Load(work, 1, position - _positions);
                    Store(work, 1, ofValues, position - _positions);
                    if (loadsAhead)
                        Load(work, 1, position);
                }

                _k.AddInto(position, _positions);
            }
        });

        void Load(PrefillBlock work, int kind, U32 first)
        {
            for (int i = 0; i < perThread; i++)
            {
                U32 at = work.InRange(first + row + (i * rowsAtOnce)), vector = work.Vector(at, work.BlockOf(at));
                _k.LoadInto<U32>(codes[kind][i].Words, from[kind].Codes.At(vector, _shape.RowBytes).At(chunk, 16));
                if (_shape.Cache == ElementType.S8)
                    _k.LoadInto<F32>([codes[kind][i].Scale], from[kind].Scales.At(vector, sizeof(float)));
            }
        }

        void Store(PrefillBlock work, int kind, U32 of, U32 first)
        {
            _stages.WaitForRoom(kind, of);
            U32 further = _stages.Further(of);
            for (int i = 0; i < perThread; i++)
            {
                U32[] operands = _conversions[kind].Operands(codes[kind][i].Words, codes[kind][i].Scale, chunk, work.InRange(first + row + (i * rowsAtOnce)));
                for (int half = 0; half < 2; half++)
                    _k.StoreVector<U32>(to[kind][half] + further + (i * rowsAtOnce * layout.PanelWidth), operands.AsSpan(4 * half, 4));
            }

            _stages.Publish(kind, of);
        }
    }
}
