using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>The warp group of <see cref="PrefillWarpGroups"/> that brings keys and values from the paged cache.</summary>
internal sealed class PrefillProducers
{
    private const int Threads = 128, PanelColumns = 64;

    private readonly PtxBuilder _k;
    private readonly AttentionShape _shape;
    private readonly AttentionArguments _arguments;
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
        Stages = new PrefillStages(k, new MatrixLayout(positions, shape.HeadDim * sizeof(ushort)), copies ? Threads / 2 : Threads, consumers);
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
        MatrixLayout layout = Stages.Layout;
        Global from = new Global(_k.Select(kind.Is(0), _arguments.Keys.Base, _arguments.Values.Base)).At(chunk, 16);
        Shared to = Stages.First(kind) + layout.Offset(row, chunk);
        U32 tile = _k.Variable<U32>(0);
        forEach(work =>
        {
            using (_k.For(work.From / _positions * _positions, work.Last + 1, _positions, out U32 position))
                CopyTile(work, position);
        });

        void CopyTile(PrefillBlock work, U32 position)
        {
            Stages.WaitForRoom(kind, tile);
            Shared tileAt = to + Stages.Further(tile);
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
            Stages.Publish(kind, tile);
            _k.AddInto(tile, 1);
        }
    }

    /// <summary>
    /// Bytes, by all threads: keys of tile t, then values of tile t - 1, loaded to registers while others are converted. A thread has sixteen columns of the lower half of the
    /// head, and those that rotate with them, of rows so far apart that the threads between them have all of those. Eight lanes store neighbouring rows' chunks of one panel, in different banks.
    /// </summary>
    private void Convert(Action<Action<PrefillBlock>> forEach)
    {
        int chunks = _shape.HeadDim / 32, rowsAtOnce = Threads / chunks; // chunks of bytes in half a head
        U32 chunk = _k.Thread % chunks, row = _k.Thread / chunks;
        Bytes[][] bytes = [.. Enumerable.Range(0, 2).Select(_ => Enumerable.Range(0, _positions / rowsAtOnce).Select(_ => new Bytes(Variables<U32>(4), Variables<U32>(4), _k.Variable<F32>())).ToArray())];
        F32[] bias = Variables<F32>(32);
        (Global Codes, Global Scales)[] from = [(_arguments.Keys, _arguments.KeyScales), (_arguments.Values, _arguments.ValueScales)];
        MatrixLayout layout = Stages.Layout;
        // Chunks of operands: two of the lower half, two of the upper one, which is the next panel where a head has two.
        Shared[] lowerAt = [At(0), At(1)], upperAt = _panels == 2 ? [.. lowerAt.Select(at => at + layout.PanelBytes)] : [At(4), At(5)];
        Shared[] to = [.. lowerAt, .. upperAt];
        int kindBytes = Stages.KindBytes;
        U32 tile = _k.Variable<U32>(0), position = _k.Variable<U32>();
        forEach(work =>
        {
            U32 start = work.From / _positions * _positions;
            _k.Set(position, start);
            if (_shape.HasKeyBias)
            {
                Load(work, 0, position, 0);
            }
            else
            {
                LoadAll(work, 0, position);
                LoadAll(work, 1, position);
            }

            _conversions[0].LoadBias(bias, work.Head, chunk);
            using (_k.While(() => position <= work.Last + _positions))
            {
                using (_k.If(position <= work.Last, uniform: true))
                {
                    if (_shape.HasKeyBias)
                    {
                        StoreOneByOne(work, tile);
                    }
                    else
                    {
                        Store(work, 0, tile);
                        LoadAll(work, 0, position + _positions);
                    }

                    _k.AddInto(tile, 1);
                }

                using (_k.If(position.IsNot(start), uniform: true))
                {
                    U32 ofValues = tile - _k.Select<U32>(position <= work.Last, 2, 1);
                    if (_shape.HasKeyBias)
                        LoadAll(work, 1, position - _positions);
                    Store(work, 1, ofValues);
                    if (!_shape.HasKeyBias)
                        LoadAll(work, 1, position);
                }

                _k.AddInto(position, _positions);
            }
        });

        void LoadAll(PrefillBlock work, int kind, U32 first)
        {
            for (int i = 0; i < bytes[kind].Length; i++)
                Load(work, kind, first + (i * rowsAtOnce), i);
        }

        void Load(PrefillBlock work, int kind, U32 first, int to)
        {
            U32 at = work.InRange(first + row), vector = work.Vector(at, work.BlockOf(at));
            Global codes = from[kind].Codes.At(vector, _shape.RowBytes).At(chunk, 16);
            _k.LoadInto<U32>(bytes[kind][to].Lower, codes);
            _k.LoadInto<U32>(bytes[kind][to].Upper, codes + (_shape.HeadDim / 2));
            if (_shape.Cache == ElementType.S8)
                _k.LoadInto<F32>([bytes[kind][to].Scale], from[kind].Scales.At(vector, sizeof(float)));
        }

        void Store(PrefillBlock work, int kind, U32 of)
        {
            Stages.WaitForRoom(kind, of);
            U32 further = Stages.Further(of);
            for (int i = 0; i < bytes[kind].Length; i++)
                StoreRow(kind, bytes[kind][i], 0, further, i * rowsAtOnce * layout.PanelWidth);
            Stages.Publish(kind, of);
        }

        // Keys with their bias, in a loop of the device, one row ahead: the compiler would load the rotations of all rows before it converts the first.
        void StoreOneByOne(PrefillBlock work, U32 of)
        {
            Stages.WaitForRoom(0, of);
            Bytes these = bytes[0][0], next = bytes[0][1];
            using (_k.For(0, (U32)_positions, rowsAtOnce, out U32 i))
            {
                Load(work, 0, position + i + rowsAtOnce, 1);
                StoreRow(0, these, work.InRange(position + i + row), Stages.Further(of) + (i * layout.PanelWidth), 0);
                foreach ((U32 to, U32 value) in these.Lower.Concat(these.Upper).Zip(next.Lower.Concat(next.Upper)))
                    _k.Set(to, value);
                if (_shape.Cache == ElementType.S8)
                    _k.Set(these.Scale, next.Scale);
            }

            Stages.Publish(0, of);
        }

        void StoreRow(int kind, Bytes these, U32 at, U32 further, int more)
        {
            (U32[] lower, U32[] upper) = _conversions[kind].Operands(these.Lower, these.Upper, these.Scale, bias, chunk, at);
            for (int part = 0; part < 4; part++)
                _k.StoreVector<U32>(to[part] + further + ((kind * kindBytes) + more), (part < 2 ? lower : upper).AsSpan(4 * (part % 2), 4));
        }

        Shared At(int further) => Stages.First(0) + layout.Offset(row, (chunk * 2) + further);

        T[] Variables<T>(int count)
            where T : struct, IRegister<T> => [.. Enumerable.Range(0, count).Select(_ => _k.Variable<T>())];
    }

    // Sixteen columns of the lower half, those that rotate with them, and their scale.
    private sealed record Bytes(U32[] Lower, U32[] Upper, F32 Scale);
}
