using System.Diagnostics;
using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Ptx;

namespace Qwen.DeviceCheck.Checks;

/// <summary>Every kernel of the catalog through the device's own compiler, with what it takes; a spill is a fault.</summary>
internal sealed class KernelCompileCheck : ICheck
{
    public string Name => "kernel compile";

    public void Verify(CheckSession session)
    {
        var target = new KernelCache(session.Device).Target;
        long start = Stopwatch.GetTimestamp();
        int count = 0, most = 0;
        string heaviest = "";
        foreach (PtxKernel kernel in KernelCatalog.All(target).DistinctBy(k => k.Text))
        {
            count++;
            using IDeviceModule module = session.Device.LoadModule(kernel.Text);
            FunctionResources resources = module.Function(kernel.Name, kernel.DynamicSharedBytes).Resources;
            if (resources.LocalBytes > 0)
                session.Case(kernel.Name, () => throw new CheckFailedException($"{resources.LocalBytes} bytes of local memory, {resources.Registers} registers"));
            if (resources.Registers > most)
                (most, heaviest) = (resources.Registers, kernel.Name);
        }

        session.Note($"{count} kernels for {target}, {Stopwatch.GetElapsedTime(start).TotalMilliseconds / count:0} ms each; {heaviest} takes the most registers, {most}");
    }

    public void Time(CheckSession session)
    {
    }
}
