using System.Globalization;
using Qwen.Native.Device;
using Qwen.Native.Interop;

namespace Qwen.Native;

/// <summary>A GPU that the driver shows.</summary>
/// <param name="Index">Its number.</param>
/// <param name="Info">What it is and has.</param>
public sealed record CudaGpu(int Index, DeviceInfo Info);

/// <summary>One of NVIDIA's libraries.</summary>
/// <param name="Name">The driver, cudart or cublasLt.</param>
/// <param name="File">The file found; a bare name where the system's search found it. Null where there is none.</param>
/// <param name="Version">Its version; null where there is none.</param>
public sealed record CudaLibrary(string Name, string? File, string? Version);

/// <summary>The CUDA libraries and GPUs of this machine, or why they can't be used.</summary>
/// <param name="Libraries">Driver, cudart (which is not needed) and cublasLt.</param>
/// <param name="Gpus">The GPUs.</param>
/// <param name="Reason">Why CUDA can't be used; null where it can.</param>
public sealed record CudaInstallation(IReadOnlyList<CudaLibrary> Libraries, IReadOnlyList<CudaGpu> Gpus, string? Reason)
{
    /// <summary>Looks.</summary>
    public static CudaInstallation Find()
    {
        string? reason = null;
        CudaLibrary driver = Look("driver", NativeLibraries.Driver, DriverVersion, ref reason);
        CudaLibrary blas = Look("cublasLt", NativeLibraries.BlasLt, BlasVersion, ref reason);
        string? notNeeded = null;
        CudaLibrary runtime = Look("cudart", NativeLibraries.Runtime, RuntimeVersion, ref notNeeded);
        List<CudaGpu> gpus = [];
        try
        {
            if (driver.File is not null)
                gpus = ListGpus();
            if (driver.File is not null && gpus.Count == 0)
                reason = "the driver is there, but shows no device";
        }
        catch (DeviceException e)
        {
            reason = e.Message;
        }

        return new CudaInstallation([driver, runtime, blas], gpus, reason);
    }

    private static List<CudaGpu> ListGpus()
    {
        int count = CudaDevice.Count;
        CudaDriver.DriverGetVersion(out int version).Check();
        var gpus = new List<CudaGpu>(count);
        for (int i = 0; i < count; i++)
        {
            CudaDriver.DeviceGet(out int device, i).Check();
            gpus.Add(new CudaGpu(i, CudaDevice.Describe(device, version)));
        }

        return gpus;
    }

    /// <summary>Loads a library and asks for its version; the first that fails gives the reason.</summary>
    private static CudaLibrary Look(string name, string library, Func<string> version, ref string? reason)
    {
        try
        {
            return new CudaLibrary(name, NativeLibraries.Load(library).Path, version());
        }
        catch (DeviceException e)
        {
            reason ??= e.Message;
            return new CudaLibrary(name, null, null);
        }
    }

    private static string DriverVersion()
    {
        CudaDriver.DriverGetVersion(out int version).Check();
        return Dotted(version);
    }

    private static string RuntimeVersion() => CudaRuntime.RuntimeGetVersion(out int version) == 0 ? Dotted(version) : "unknown";

    private static string BlasVersion()
    {
        int version = (int)CublasLtApi.GetVersion();
        return string.Create(CultureInfo.InvariantCulture, $"{version / 10000}.{version / 100 % 100}.{version % 100}");
    }

    private static string Dotted(int version) => string.Create(CultureInfo.InvariantCulture, $"{version / 1000}.{version % 1000 / 10}");
}
