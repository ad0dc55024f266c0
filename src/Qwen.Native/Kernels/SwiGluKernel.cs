using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>y[t, i] = SiLU(x[t, i]) * x[t, I + i]: [T, 2 I] -> [T, I], the gate and the up projection stacked in that order.</summary>
/// <remarks>Memory-bound: 3 values a result. Four results a thread, so that accesses are as wide as 16-bit values allow without a tail: I is a multiple of 4.</remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="type">Type of x and y: F16 or BF16.</param>
public sealed class SwiGluKernel(KernelCache cache, ElementType type) : Kernel(cache, Build(cache.Target, type))
{
    private const int PerThread = 4;

    /// <summary>The kernel for activations of a type.</summary>
    public static PtxKernel Build(PtxTarget target, ElementType type)
    {
        var k = new PtxBuilder(target, $"swiglu_{PtxBuilder.Name(type)}", threads: 256);
        Global x = k.Pointer("x"), y = k.Pointer("y");
        U32 columns = k.Number("columns");
        U32 column = ((k.BlockY * k.Threads) + k.Thread) * PerThread;
        k.ReturnIf(column >= columns);
        k.WaitForPreviousKernel();
        Global gateRow = x.At(k.BlockX, columns * (2 * type.Bytes())).At(column, type.Bytes());
        F32[] gate = k.LoadElements(type, gateRow, PerThread), up = k.LoadElements(type, gateRow.At(columns, type.Bytes()), PerThread);
        k.LetNextKernelStart();
        k.StoreElements(type, y.At(k.BlockX, columns * type.Bytes()).At(column, type.Bytes()), Gated(k, gate, up));
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="x">[tokens, 2 columns].</param>
    /// <param name="y">[tokens, columns].</param>
    /// <param name="tokens">Rows.</param>
    /// <param name="columns">A multiple of 4.</param>
    public void Launch(IDeviceStream stream, DevicePointer x, DevicePointer y, int tokens, int columns)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(columns % PerThread, 0, nameof(columns));
        Launch(stream, new Dim3(tokens, (columns + (Threads * PerThread) - 1) / (Threads * PerThread)), [Argument.Of(x), Argument.Of(y), Argument.Of(columns)], overlapPrevious: true);
    }

    /// <summary>SiLU(gate) * up, SiLU(a) = a / (1 + e^-a): of a very negative gate the divisor is infinite, and the quotient zero.</summary>
    internal static F32[] Gated(PtxBuilder k, F32[] gate, F32[] up) =>
        [.. gate.Zip(up, (g, u) => k.Divide(g, k.Exp2(g * -MathF.Log2(MathF.E)) + 1f) * u)];
}

/// <summary>As <see cref="SwiGluKernel"/>, with y quantized to E4M3 in the same pass.</summary>
/// <remarks>Memory-bound. A block holds a row of y in registers until its scale is known.</remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="type">Type of x: F16 or BF16.</param>
/// <param name="columns">Width of y, a multiple of 4.</param>
/// <param name="scale">Row or RowGroup128.</param>
public sealed class SwiGluQuantizeKernel(KernelCache cache, ElementType type, int columns, MatmulScale scale) : Kernel(cache, Build(cache.Target, type, columns, scale))
{
    /// <summary>The kernel for rows of a width.</summary>
    public static PtxKernel Build(PtxTarget target, ElementType type, int columns, MatmulScale scale)
    {
        if (scale is not (MatmulScale.Row or MatmulScale.RowGroup128))
            throw new ArgumentOutOfRangeException(nameof(scale), scale, "It is scaled by row, or by 128 columns of a row.");
        var k = new PtxBuilder(target, $"swiglu_{PtxBuilder.Name(type)}_e4m3_{columns}_{scale.ToString().ToLowerInvariant()}", BlockRow.ThreadsFor(columns));
        Global x = k.Pointer("x"), codes = k.Pointer("codes"), scales = k.Pointer("scales");
        U32 scaleStride = k.Number("scale_stride");
        var row = new BlockRow(k, columns);
        k.WaitForPreviousKernel();
        Global gateRow = x.At(k.BlockX, 2 * columns * type.Bytes());
        F32[][] gated = row.Each(v => SwiGluKernel.Gated(k, row.Load(type, gateRow, v), row.Load(type, gateRow + (columns * type.Bytes()), v)));
        k.LetNextKernelStart();
        row.Quantize(gated, row.At(codes, ElementType.E4M3, k.BlockX), scale, scales, k.BlockX, scaleStride);
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="x">[tokens, 2 columns].</param>
    /// <param name="codes">E4M3 [tokens, columns].</param>
    /// <param name="scales">F32 [tokens], or [ceil(columns / 128), tokens rounded up to a multiple of 4].</param>
    /// <param name="tokens">Rows.</param>
    public void Launch(IDeviceStream stream, DevicePointer x, DevicePointer codes, DevicePointer scales, int tokens) =>
        Launch(stream, tokens, [Argument.Of(x), Argument.Of(codes), Argument.Of(scales), Argument.Of((tokens + 3) / 4 * 4)], overlapPrevious: true);
}
