using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu.Quantized;

/// <summary>Sixteen unpacked rows, their sub-blocks in the order in which <see cref="RowPanel"/> walks them.</summary>
internal readonly unsafe struct Panel
{
    /// <summary>[sub-blocks, Steps, 16 rows, 4 bytes], see <see cref="PanelDot"/>.</summary>
    public readonly byte* Codes;

    /// <summary>[sub-blocks, sums, 16 rows, 2] int16.</summary>
    public readonly byte* Starts;

    /// <summary>[sub-blocks, 16 rows].</summary>
    public readonly float* Scales;

    /// <summary>[sub-blocks, 16 rows].</summary>
    public readonly float* Biases;

    private readonly int _codeBytes, _startBytes;

    private Panel(byte* memory, int subBlocks, int codeBytes, int startBytes)
    {
        (_codeBytes, _startBytes) = (codeBytes, startBytes);
        Codes = memory;
        Starts = Codes + ((long)subBlocks * codeBytes);
        Scales = (float*)(Starts + ((long)subBlocks * startBytes));
        Biases = Scales + ((long)subBlocks * RowPanel.Rows);
    }

    /// <summary>Lays a panel out in memory.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Panel At<TFormat>(byte* memory, int columns)
        where TFormat : struct, IQuantizedFormat =>
        new(memory, columns / TFormat.SubBlock, PanelDot.Steps<TFormat>() * PanelDot.StepBytes, PanelDot.Steps<TFormat>() / PanelDot.StepsPerSum<TFormat>() * PanelDot.StepBytes);

    /// <summary>Codes of the sub-block that is the place-th of the walk.</summary>
    public byte* CodesAt(int place) => Codes + ((long)place * _codeBytes);

    /// <summary>Its sums' starts.</summary>
    public byte* StartsAt(int place) => Starts + ((long)place * _startBytes);
}

/// <summary>Fills panels from the blocks of sixteen rows.</summary>
internal static unsafe class PanelUnpacker
{
    /// <summary>The codes; <paramref name="lanes"/>[p] is the place of sub-block p, which p + 16, .. follow.</summary>
    [SkipLocalsInit]
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Codes<TFormat>(byte* blocks, long rowBytes, int columns, in Panel panel, int* lanes)
        where TFormat : struct, IQuantizedFormat
    {
        byte* stage = stackalloc byte[32 * RowPanel.Rows];
        int groups = columns / 32;
        for (int group = 0; group < groups; group++)
        {
            // The rows of the next panel: sixteen at once are more streams than the processor follows by itself. Past the matrix it is harmless.
            byte* ahead = blocks + (RowPanel.Rows * rowBytes) + (group * rowBytes / groups);
            for (int row = 0; row < RowPanel.Rows; row++)
                Sse.Prefetch1(ahead + (row * rowBytes));

            for (int half = 0; half < RowPanel.Rows; half += 8)
            {
                byte* rows = blocks + (half * rowBytes);
                Transpose(
                    TFormat.Codes(rows, group), TFormat.Codes(rows + rowBytes, group),
                    TFormat.Codes(rows + (2 * rowBytes), group), TFormat.Codes(rows + (3 * rowBytes), group),
                    TFormat.Codes(rows + (4 * rowBytes), group), TFormat.Codes(rows + (5 * rowBytes), group),
                    TFormat.Codes(rows + (6 * rowBytes), group), TFormat.Codes(rows + (7 * rowBytes), group),
                    stage + (half * 4));
            }

            for (int column = 0; column < 32; column += TFormat.SubBlock)
            {
                int subBlock = ((group * 32) + column) / TFormat.SubBlock, place = lanes[subBlock % Lanes.Count] + (subBlock / Lanes.Count);
                byte* bytes = stage + (column * RowPanel.Rows), codes = panel.CodesAt(place);
                if (PanelDot.IsVnni<TFormat>())
                    Unsafe.CopyBlockUnaligned(codes, bytes, (uint)(TFormat.SubBlock * RowPanel.Rows));
                else if (PanelDot.IsWords<TFormat>())
                    Words<TFormat>(bytes, (short*)codes);
                else
                    Bytes<TFormat>(bytes, (sbyte*)codes, (short*)panel.StartsAt(place));
            }
        }
    }

    /// <summary>The scales and biases of the rows from <paramref name="first"/> on.</summary>
    [SkipLocalsInit]
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Scales<TFormat>(in WeightMatrix w, int first, in Panel panel, int* lanes, byte* tail)
        where TFormat : struct, IQuantizedFormat
    {
        float* scales = stackalloc float[Lanes.Count], biases = stackalloc float[Lanes.Count];
        for (int row = 0; row < RowPanel.Rows; row++)
        {
            RowBlocks<TFormat> blocks = new(w.Data + ((first + row) * w.RowBytes), w.Data + (w.Rows * w.RowBytes), w.Columns, tail);
            for (int b = 0; b < blocks.SubBlocks; b += Lanes.Count)
            {
                blocks.Scales(blocks.Chunk(b), b, out Vector512<float> chunkScales, out Vector512<float> chunkBiases);
                chunkScales.Store(scales);
                chunkBiases.Store(biases);
                int count = Math.Min(Lanes.Count, blocks.SubBlocks - b);
                for (int lane = 0; lane < count; lane++)
                {
                    int place = ((lanes[lane] + (b / Lanes.Count)) * RowPanel.Rows) + row;
                    panel.Scales[place] = scales[lane];
                    if (TFormat.HasBias)
                        panel.Biases[place] = biases[lane];
                }
            }
        }
    }

    /// <summary>Codes less the offset; and what sums of their products with activations plus 128 must begin with.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Bytes<TFormat>(byte* bytes, sbyte* codes, short* starts)
        where TFormat : struct, IQuantizedFormat
    {
        for (int sum = 0; sum < PanelDot.Steps<TFormat>(); sum += PanelDot.StepsPerSum<TFormat>(), starts += PanelDot.StepBytes / sizeof(short))
        {
            for (int half = 0; half < PanelDot.StepBytes; half += 32)
            {
                Vector256<short> start = default;
                for (int step = sum; step < sum + PanelDot.StepsPerSum<TFormat>(); step++)
                {
                    int at = (step * PanelDot.StepBytes) + half;
                    Vector256<sbyte> four = Vector256.Load(bytes + at).AsSByte() - Vector256.Create((sbyte)TFormat.Offset);
                    four.Store(codes + at);
                    start -= Avx2.MultiplyAddAdjacent(Vector256.Create((byte)128), four);
                }

                start.Store(starts + (half / sizeof(short)));
            }
        }
    }

    /// <summary>[SubBlock / 4, 16 rows, 4] bytes to [SubBlock / 2, 16 rows, 2] int16, less the offset.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Words<TFormat>(byte* bytes, short* codes)
        where TFormat : struct, IQuantizedFormat
    {
        for (int i = 0; i < TFormat.SubBlock / 4; i++, bytes += PanelDot.StepBytes, codes += PanelDot.StepBytes)
        {
            Vector512<uint> four = Vector512.Load(bytes).AsUInt32();
            Vector512<uint> even = four & Vector512.Create(0x00FF00FFu), odd = (four >> 8) & Vector512.Create(0x00FF00FFu);
            Vector512<short> first = ((even & Vector512.Create(0xFFFFu)) | (odd << 16)).AsInt16(), second = ((even >> 16) | (odd & Vector512.Create(0xFFFF0000u))).AsInt16();
            (first - Vector512.Create((short)TFormat.Offset)).Store(codes);
            (second - Vector512.Create((short)TFormat.Offset)).Store(codes + (PanelDot.StepBytes / 2));
        }
    }

    /// <summary>Eight rows of eight 4-byte groups: group i of row r goes to destination + 64 i + 4 r.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Transpose(
        Vector256<byte> r0, Vector256<byte> r1, Vector256<byte> r2, Vector256<byte> r3,
        Vector256<byte> r4, Vector256<byte> r5, Vector256<byte> r6, Vector256<byte> r7, byte* destination)
    {
        StoreColumns(r0, r1, r2, r3, r4, r5, r6, r7, destination, high: false);
        StoreColumns(r0, r1, r2, r3, r4, r5, r6, r7, destination + (2 * PanelDot.StepBytes), high: true);
    }

    /// <summary>Groups 0, 1, 4 and 5 of eight rows; or, high, groups 2, 3, 6 and 7.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void StoreColumns(
        Vector256<byte> r0, Vector256<byte> r1, Vector256<byte> r2, Vector256<byte> r3,
        Vector256<byte> r4, Vector256<byte> r5, Vector256<byte> r6, Vector256<byte> r7, byte* destination, bool high)
    {
        Vector256<long> r01 = Zip(r0, r1, high), r23 = Zip(r2, r3, high), r45 = Zip(r4, r5, high), r67 = Zip(r6, r7, high);
        Vector256<long> even03 = Avx2.UnpackLow(r01, r23), odd03 = Avx2.UnpackHigh(r01, r23);
        Vector256<long> even47 = Avx2.UnpackLow(r45, r67), odd47 = Avx2.UnpackHigh(r45, r67);
        Vector256.Create(even03.GetLower(), even47.GetLower()).AsByte().Store(destination);
        Vector256.Create(odd03.GetLower(), odd47.GetLower()).AsByte().Store(destination + PanelDot.StepBytes);
        Vector256.Create(even03.GetUpper(), even47.GetUpper()).AsByte().Store(destination + (4 * PanelDot.StepBytes));
        Vector256.Create(odd03.GetUpper(), odd47.GetUpper()).AsByte().Store(destination + (5 * PanelDot.StepBytes));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Vector256<long> Zip(Vector256<byte> a, Vector256<byte> b, bool high) =>
        (high ? Avx2.UnpackHigh(a.AsInt32(), b.AsInt32()) : Avx2.UnpackLow(a.AsInt32(), b.AsInt32())).AsInt64();
}
