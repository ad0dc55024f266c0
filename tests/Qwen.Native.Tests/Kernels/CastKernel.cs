using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Ptx;

namespace Qwen.Native.Tests.Kernels;

/// <summary>y[i] = x[i] in another type, rounded to nearest even; what is too large for an F16 saturates.</summary>
/// <remarks>What every kernel loads, converts and stores, and nothing else: a test of that. Four values a thread; the last few, which are no vector, go one by one.</remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="from">Type of x.</param>
/// <param name="to">Type of y.</param>
internal sealed class CastKernel(KernelCache cache, ElementType from, ElementType to) : Kernel(cache, Build(cache.Target, from, to))
{
    private const int PerThread = 4;
    private const long MostPerLaunch = 1L << 30; // indices have 32 bits

    /// <summary>The kernel for two types.</summary>
    public static PtxKernel Build(PtxTarget target, ElementType from, ElementType to)
    {
        var k = new PtxBuilder(target, $"cast_{PtxBuilder.Name(from)}_{PtxBuilder.Name(to)}", threads: 256);
        Global x = k.Pointer("x"), y = k.Pointer("y");
        U32 count = k.Number("count");
        U32 first = ((k.BlockX * k.Threads) + k.Thread) * PerThread;
        k.ReturnIf(first >= count);
        k.WaitForPreviousKernel();
        k.If(
            first + PerThread <= count,
            () => k.StoreElements(to, y.At(first, to.Bytes()), k.LoadElements(from, x.At(first, from.Bytes()), PerThread)),
            () =>
            {
                using (k.For(first, count, out U32 i))
                    k.StoreElements(to, y.At(i, to.Bytes()), k.LoadElements(from, x.At(i, from.Bytes()), 1));
            });
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="x">[count], aligned to 16 bytes.</param>
    /// <param name="y">[count], aligned to 16 bytes.</param>
    /// <param name="count">Values.</param>
    public void Launch(IDeviceStream stream, DevicePointer x, DevicePointer y, long count)
    {
        for (long done = 0; done < count; done += MostPerLaunch)
        {
            int part = (int)Math.Min(count - done, MostPerLaunch);
            Launch(
                stream, (part + (Threads * PerThread) - 1) / (Threads * PerThread),
                [Argument.Of(x + (done * from.Bytes())), Argument.Of(y + (done * to.Bytes())), Argument.Of(part)], overlapPrevious: true);
        }
    }
}
