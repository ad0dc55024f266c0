using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>y[t, i] = SiLU(x[t, i]) * x[t, I + i]: [T, 2 I] -> [T, I], the gate and the up projection stacked in that order.</summary>
/// <remarks>Memory-bound: 3 values a result. Four results a thread, so that accesses are as wide as 16-bit values allow without a tail: I is a multiple of 4.</remarks>
public sealed class SwiGluKernel(KernelCache cache, ElementType type) : Kernel(cache, Build(cache.Target, type))
{
    private const int PerThread = 4;

    /// <summary>The kernel for activations of a type.</summary>
    public static PtxKernel Build(PtxTarget target, ElementType type)
    {
        var k = new PtxBuilder(target, $"swiglu_{PtxBuilder.Name(type)}", threads: 256);
        Global x = k.Pointer("x"), y = k.Pointer("y");
        U32 columns = k.Number("columns");
        U32 column = ((k.BlockX * k.Threads) + k.Thread) * PerThread;
        k.ReturnIf(column >= columns);
        k.WaitForPreviousKernel();
        Global gateRow = x.At(k.BlockY, columns * (2 * type.Bytes())).At(column, type.Bytes());
        F32[] gate = k.LoadElements(type, gateRow, PerThread), up = k.LoadElements(type, gateRow.At(columns, type.Bytes()), PerThread);
        var product = new F32[PerThread];
        for (int i = 0; i < PerThread; i++)
        {
            // SiLU(a) = a / (1 + e^-a)
            F32 exponential = k.Exp2(gate[i] * -MathF.Log2(MathF.E));
            product[i] = k.Divide(gate[i], exponential + 1f) * up[i];
        }

        k.StoreElements(type, y.At(k.BlockY, columns * type.Bytes()).At(column, type.Bytes()), product);
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
        Launch(stream, new Dim3((columns + (Threads * PerThread) - 1) / (Threads * PerThread), tokens), [Argument.Of(x), Argument.Of(y), Argument.Of(columns)], overlapPrevious: true);
    }
}
