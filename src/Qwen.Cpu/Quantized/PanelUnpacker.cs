using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu.Quantized;

/// <summary>A chunk, 16 sub-blocks, of sixteen rows, unpacked so that rows lie in the lanes of a vector.</summary>
internal readonly unsafe struct Panel
{
    /// <summary>Bytes of any format's panel: 32 codes of up to 2 bytes, two starts, a scale and a bias, per row and sub-block.</summary>
    public const int Bytes = Lanes.Count * RowPanel.Rows * ((32 * 2) + (4 * sizeof(float)));

    /// <summary>Bytes of its scales.</summary>
    public const long ScalesBytes = Lanes.Count * RowPanel.Rows * sizeof(float);

    /// <summary>[sub-blocks, Steps, 16 rows, 4 bytes], see <see cref="PanelCodes"/>.</summary>
    public readonly byte* Codes;

    /// <summary>[sub-blocks, sums, 16 rows, 2] int16.</summary>
    public readonly byte* Starts;

    /// <summary>[sub-blocks, 16 rows].</summary>
    public readonly float* Scales;

    /// <summary>[sub-blocks, 16 rows], behind the scales.</summary>
    public readonly float* Biases;

    /// <summary>Lays a panel out in <see cref="Bytes"/> bytes of memory, aligned to 64.</summary>
    public Panel(byte* memory)
    {
        Codes = memory;
        Starts = Codes + (Lanes.Count * RowPanel.Rows * 32 * 2);
        Scales = (float*)(Starts + (Lanes.Count * RowPanel.Rows * 2 * sizeof(float)));
        Biases = Scales + (ScalesBytes / sizeof(float));
    }
}

/// <summary>Fills panels from the blocks of sixteen rows.</summary>
internal static unsafe class PanelUnpacker
{
    /// <summary>The codes of <paramref name="groups"/> times 32 columns.</summary>
    /// <param name="chunk">Of the first row.</param>
    /// <param name="rowBytes">Bytes from a row to the next.</param>
    /// <param name="groups">1 .. 16, or 8 where sub-blocks have 16 columns.</param>
    /// <param name="panel">Takes them.</param>
    /// <param name="ahead">What is read after this chunk: asked for meanwhile, one of <paramref name="groups"/> parts for each group.</param>
    /// <param name="aheadBytes">Its length.</param>
    [SkipLocalsInit]
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Codes<TFormat, TTile>(byte* chunk, long rowBytes, int groups, in Panel panel, byte* ahead, long aheadBytes)
        where TFormat : struct, IQuantizedFormat
        where TTile : struct, IPanelTile
    {
        byte* codes = panel.Codes, starts = panel.Starts;
        long part = (aheadBytes / groups) + 1;
        for (int group = 0; group < groups; group++, ahead += part)
        {
            for (long i = 0; i < part; i += 64)
                Sse.Prefetch1(ahead + i);
            for (int half = 0; half < PanelDot.StepBytes; half += PanelDot.StepBytes / 2, chunk += RowPanel.Rows / 2 * rowBytes)
                EightRows<TFormat, TTile>(chunk, rowBytes, group, codes + half, starts + half);
            chunk -= RowPanel.Rows * rowBytes;
            codes += (TTile.Codes<TFormat>() == PanelCodes.Words ? 16 : 8) * PanelDot.StepBytes;
            starts += 32 / TFormat.SubBlock * (PanelDot.Steps<TFormat>() / PanelDot.StepsPerSum<TFormat>()) * PanelDot.StepBytes;
        }
    }

    /// <summary>The scales and biases; past the rows, whatever lies there.</summary>
    [SkipLocalsInit]
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Scales<TFormat>(byte* chunk, long rowBytes, in Panel panel)
        where TFormat : struct, IQuantizedFormat
    {
        float* scales = stackalloc float[Lanes.Count * RowPanel.Rows], biases = stackalloc float[Lanes.Count * RowPanel.Rows];
        for (int row = 0; row < RowPanel.Rows; row++)
        {
            TFormat.Scales(chunk + (row * rowBytes), out Vector512<float> rowScales, out Vector512<float> rowBiases);
            rowScales.Store(scales + (row * Lanes.Count));
            if (TFormat.HasBias)
                rowBiases.Store(biases + (row * Lanes.Count));
        }

        Transpose(scales, panel.Scales);
        if (TFormat.HasBias)
            Transpose(biases, panel.Biases);
    }

    /// <summary>[16, 16] floats the other way round, four by four.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Transpose(float* from, float* to)
    {
        for (int i = 0; i < 16; i += 4)
        {
            for (int j = 0; j < 16; j += 4)
            {
                float* source = from + (16 * i) + j, target = to + (16 * j) + i;
                Vector128<float> r0 = Vector128.Load(source), r1 = Vector128.Load(source + 16), r2 = Vector128.Load(source + 32), r3 = Vector128.Load(source + 48);
                Vector128<double> low01 = Sse.UnpackLow(r0, r1).AsDouble(), high01 = Sse.UnpackHigh(r0, r1).AsDouble();
                Vector128<double> low23 = Sse.UnpackLow(r2, r3).AsDouble(), high23 = Sse.UnpackHigh(r2, r3).AsDouble();
                Sse2.UnpackLow(low01, low23).AsSingle().Store(target);
                Sse2.UnpackHigh(low01, low23).AsSingle().Store(target + 16);
                Sse2.UnpackLow(high01, high23).AsSingle().Store(target + 32);
                Sse2.UnpackHigh(high01, high23).AsSingle().Store(target + 48);
            }
        }
    }

    /// <summary>32 columns of eight rows: each 4 columns of all rows become half a step.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void EightRows<TFormat, TTile>(byte* rows, long rowBytes, int group, byte* codes, byte* starts)
        where TFormat : struct, IQuantizedFormat
        where TTile : struct, IPanelTile
    {
        Vector256<byte> r0 = TFormat.Codes(rows, group), r1 = TFormat.Codes(rows + rowBytes, group);
        Vector256<byte> r2 = TFormat.Codes(rows + (2 * rowBytes), group), r3 = TFormat.Codes(rows + (3 * rowBytes), group);
        Vector256<byte> r4 = TFormat.Codes(rows + (4 * rowBytes), group), r5 = TFormat.Codes(rows + (5 * rowBytes), group);
        Vector256<byte> r6 = TFormat.Codes(rows + (6 * rowBytes), group), r7 = TFormat.Codes(rows + (7 * rowBytes), group);
        Vector256<short> first = default, last = default;
        Steps<TFormat, TTile>(Low(r0, r1), Low(r2, r3), Low(r4, r5), Low(r6, r7), codes, 0, ref first, ref last);
        Steps<TFormat, TTile>(High(r0, r1), High(r2, r3), High(r4, r5), High(r6, r7), codes, 2, ref first, ref last);
        if (TTile.Codes<TFormat>() != PanelCodes.Signed)
            return;
        if (PanelDot.StepsPerSum<TFormat>() == 8)
        {
            (first + last).Store((short*)starts);
            return;
        }

        first.Store((short*)starts);
        last.Store((short*)(starts + PanelDot.StepBytes));

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static Vector256<long> Low(Vector256<byte> a, Vector256<byte> b) => Avx2.UnpackLow(a.AsInt32(), b.AsInt32()).AsInt64();

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static Vector256<long> High(Vector256<byte> a, Vector256<byte> b) => Avx2.UnpackHigh(a.AsInt32(), b.AsInt32()).AsInt64();
    }

    /// <summary>The four columns of <paramref name="step"/>, those after them, and those 16 after each.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Steps<TFormat, TTile>(
        Vector256<long> r01, Vector256<long> r23, Vector256<long> r45, Vector256<long> r67, byte* codes, int step, ref Vector256<short> first, ref Vector256<short> last)
        where TFormat : struct, IQuantizedFormat
        where TTile : struct, IPanelTile
    {
        Vector256<byte> even03 = Avx2.UnpackLow(r01, r23).AsByte(), odd03 = Avx2.UnpackHigh(r01, r23).AsByte();
        Vector256<byte> even47 = Avx2.UnpackLow(r45, r67).AsByte(), odd47 = Avx2.UnpackHigh(r45, r67).AsByte();
        Store<TFormat, TTile>(Vector256.Create(even03.GetLower(), even47.GetLower()), codes, step, ref first);
        Store<TFormat, TTile>(Vector256.Create(odd03.GetLower(), odd47.GetLower()), codes, step + 1, ref first);
        Store<TFormat, TTile>(Avx2.Permute2x128(even03, even47, 0x31), codes, step + 4, ref last);
        Store<TFormat, TTile>(Avx2.Permute2x128(odd03, odd47, 0x31), codes, step + 5, ref last);
    }

    /// <summary>Four columns of eight rows, in the form that is asked for.</summary>
    /// <param name="four">Their codes.</param>
    /// <param name="codes">The panel's, of these rows and 32 columns.</param>
    /// <param name="step">Which four columns.</param>
    /// <param name="start">Where these are signed, less 128 times their sum.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Store<TFormat, TTile>(Vector256<byte> four, byte* codes, int step, ref Vector256<short> start)
        where TFormat : struct, IQuantizedFormat
        where TTile : struct, IPanelTile
    {
        if (TTile.Codes<TFormat>() == PanelCodes.Words)
        {
            short* words = (short*)(codes + (2 * step * PanelDot.StepBytes));
            Vector256<short> offset = Vector256.Create((short)TFormat.Offset);
            ((four.AsInt16() & Vector256.Create((short)0xFF)) - offset).Store(words);
            ((four.AsInt16() >>> 8) - offset).Store(words + (PanelDot.StepBytes / 2));
        }
        else if (TTile.Codes<TFormat>() == PanelCodes.Unsigned)
        {
            four.Store(codes + (step * PanelDot.StepBytes));
        }
        else
        {
            Vector256<sbyte> signed = four.AsSByte() - Vector256.Create((sbyte)TFormat.Offset);
            signed.Store((sbyte*)(codes + (step * PanelDot.StepBytes)));
            start -= Avx2.MultiplyAddAdjacent(Vector256.Create((byte)128), signed);
        }
    }
}
