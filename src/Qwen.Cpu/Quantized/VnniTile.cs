using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Qwen.Cpu.MachineCode;

namespace Qwen.Cpu.Quantized;

/// <summary>A panel times four tokens with AVX512-VNNI, which .NET 10 has no intrinsics for: the loop is assembled when the process starts.</summary>
/// <remarks>
/// VPDPBUSD multiplies 64 unsigned codes by 64 signed activations and adds four products each to an int32: with 512 bits one instruction does the
/// work of two to four of <see cref="PanelDot"/>'s. The dots are the same exact integers, and what follows is the same in the same order.
/// A sub-block of 32 columns, 16 rows and 4 tokens is 32 of them, 32 cycles on Zen 4, each with its activations broadcast from memory.
/// </remarks>
internal readonly unsafe struct VnniTile : IPanelTile
{
    private const int Tokens = 4;
    private const int RowBytes = RowPanel.Rows * sizeof(float);

    // What the loop reads of the activations, for each token and sub-block: [3, 4 tokens, 16 sub-blocks], a vector for each token.
    private const int StartBytes = 0, ScaleBytes = Tokens * RowBytes, ScaledSumBytes = 2 * Tokens * RowBytes;

    /// <summary>Loops for 16 and 32 columns; without and with a bias; that add, and that begin sums. Null where the machine has no such instructions.</summary>
    private static readonly nint[]? Loops = Assemble();

    /// <summary>Whether this machine, and this system, run it.</summary>
    public static bool IsSupported => Loops is not null;

    /// <inheritdoc/>
    public static PanelCodes Codes<TFormat>()
        where TFormat : struct, IQuantizedFormat => PanelCodes.Unsigned;

    /// <inheritdoc/>
    [SkipLocalsInit]
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Multiply<TFormat>(in Panel panel, int count, in QuantizedActivations x, int token, int first, float* sums, byte* ahead, int step)
        where TFormat : struct, IQuantizedFormat
    {
        int column = first * TFormat.SubBlock;
        float* factors = stackalloc float[3 * Tokens * Lanes.Count];
        for (int t = 0; t < Tokens; t++)
        {
            Vector512<int> offsets = Vector512.Load(x.Sums(token + t, TFormat.SubBlock) + first) << BitOperations.Log2((uint)Math.Max(TFormat.Offset, 1));
            (TFormat.Offset == 0 ? default : -offsets).Store((int*)(factors + (t * Lanes.Count)));
            Lanes.ActivationScales<TFormat>(x.Scales(token + t), first).Store(factors + ((Tokens + t) * Lanes.Count));
            if (TFormat.HasBias)
                Vector512.Load(x.ScaledSums(token + t, TFormat.SubBlock) + first).Store(factors + (((2 * Tokens) + t) * Lanes.Count));
        }

        byte* codes = (byte*)x.Codes(token) + column;
        Arguments arguments = new()
        {
            Codes = panel.Codes, Scales = panel.Scales, Factors = factors, Sums = sums, Ahead = ahead, Step = step, Count = count,
            X0 = codes, X1 = codes + x.TokenBytes, X2 = codes + (2 * x.TokenBytes), X3 = codes + (3 * x.TokenBytes),
        };
        for (int i = 0; i < Lanes.Count * TFormat.SubBlock; i += 64)
            RowPanel.Prefetch(codes + (Tokens * x.TokenBytes) + i, x.TokenBytes);
        ((delegate* unmanaged[SuppressGCTransition]<Arguments*, void>)Loops![Index(TFormat.SubBlock, TFormat.HasBias, first == 0)])(&arguments);
    }

    private static int Index(int subBlock, bool hasBias, bool begins) => (subBlock / 32 * 4) + (hasBias ? 2 : 0) + (begins ? 1 : 0);

    private static nint[]? Assemble()
    {
        if (!Avx512BW.IsSupported || ((X86Base.CpuId(7, 0).Ecx >> 11) & 1) == 0)
            return null;
        Assembler assembler = new();
        int[] starts = new int[8];
        foreach (int subBlock in (int[])[16, 32])
        {
            foreach (bool hasBias in (bool[])[false, true])
            {
                foreach (bool begins in (bool[])[false, true])
                {
                    starts[Index(subBlock, hasBias, begins)] = assembler.Here;
                    Assemble(assembler, subBlock, hasBias, begins);
                    assembler.Align();
                }
            }
        }

        byte* code = ExecutableMemory.TryPut(assembler.Code);
        return code is null ? null : Array.ConvertAll(starts, start => (nint)(code + start));
    }

    /// <summary>For each sub-block: dots of 16 rows with four tokens, sum += float(dot) * (scale * activation scale), + bias * sum of activations.</summary>
    private static void Assemble(Assembler a, int subBlock, bool hasBias, bool begins)
    {
        const Register codes = Register.Rax, scales = Register.Rcx, factors = Register.Rdx, sums = Register.Rsi, ahead = Register.Rbx, step = Register.Rbp, count = Register.Rdi;
        ReadOnlySpan<Register> x = [Register.R8, Register.R9, Register.R10, Register.R11];
        const int dots = 16, products = 20, totals = 24, code = 28, scale = 30, bias = 31;
        const int toBiases = (int)Panel.ScalesBytes;

        a.Push(ahead);
        a.Push(step);
        int field = 0;
        foreach (Register register in (Register[])[codes, scales, factors, sums, ahead, step, .. x, count])
            a.Load(register, new(Register.Rdi, sizeof(long) * field++));
        int loop = a.Here;
        for (int t = 0; t < Tokens; t++)
            a.Broadcast(dots + t, new(factors, StartBytes + (t * RowBytes)));
        for (int i = 0; i < subBlock / 4; i++)
        {
            a.Load(code + (i & 1), new(codes, i * PanelDot.StepBytes));
            for (int t = 0; t < Tokens; t++)
                a.DotBytes(dots + t, code + (i & 1), new(x[t], i * 4));
        }

        a.Load(scale, new(scales, 0));
        if (hasBias)
            a.Load(bias, new(scales, toBiases));
        for (int i = 0; i < IPanelTile.AheadBytes; i += 64)
            a.Prefetch(new(ahead, i));
        for (int t = 0; t < Tokens; t++)
        {
            if (begins)
                a.Zero(totals + t);
            else
                a.Load(totals + t, new(sums, t * RowBytes));
            a.Multiply(products + t, scale, new(factors, ScaleBytes + (t * RowBytes)));
            a.ConvertToSingle(dots + t);
            a.MultiplyAdd(totals + t, dots + t, products + t);
            if (hasBias)
                a.MultiplyAdd(totals + t, bias, new Memory(factors, ScaledSumBytes + (t * RowBytes)));
            a.Store(new(sums, t * RowBytes), totals + t);
        }

        a.Add(codes, subBlock / 4 * PanelDot.StepBytes);
        a.Add(scales, RowBytes);
        a.Add(factors, sizeof(float));
        a.Add(sums, Tokens * RowBytes);
        foreach (Register register in x)
            a.Add(register, subBlock);
        a.Add(ahead, step);
        a.DecrementAndLoop(count, loop);
        a.Pop(step);
        a.Pop(ahead);
        a.Return();
    }

    /// <summary>In the order in which the loop reads them.</summary>
    private struct Arguments
    {
        public byte* Codes;
        public float* Scales;
        public float* Factors;
        public float* Sums;
        public byte* Ahead;
        public long Step;
        public byte* X0;
        public byte* X1;
        public byte* X2;
        public byte* X3;
        public long Count;
    }
}
