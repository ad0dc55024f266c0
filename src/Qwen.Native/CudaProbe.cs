using System.Runtime.InteropServices;
using System.Text;

namespace Qwen.Native;

/// <summary>A GPU that the driver reports.</summary>
/// <param name="Index">Its number.</param>
/// <param name="Name">Its name.</param>
/// <param name="ComputeCapability">Such as 9.0.</param>
/// <param name="MemoryBytes">Its memory.</param>
public sealed record CudaDevice(int Index, string Name, Version ComputeCapability, ulong MemoryBytes);

/// <summary>Which CUDA libraries and devices are here, or why there are none.</summary>
/// <param name="Libraries">Each library by its role (driver, cudart, cublasLt), with the file that was found; null where none was.</param>
/// <param name="Devices">The GPUs.</param>
/// <param name="Reason">Why CUDA can't be used; null where it can.</param>
public sealed record CudaProbe(IReadOnlyDictionary<string, string?> Libraries, IReadOnlyList<CudaDevice> Devices, string? Reason)
{
    /// <summary>The environment variable that names a folder to look for the libraries in, before the system's own places.</summary>
    public const string PathVariable = "QWEN_CUDA_PATH";

    private const int ComputeCapabilityMajor = 75, ComputeCapabilityMinor = 76; // CUdevice_attribute

    /// <summary>Looks. Libraries are opened and closed again.</summary>
    public static CudaProbe Run() => Run(Environment.GetEnvironmentVariable(PathVariable), OperatingSystem.IsWindows());

    /// <summary>What the libraries may be called, newest first.</summary>
    internal static IReadOnlyDictionary<string, string[]> FileNames(bool windows) => windows
        ? new Dictionary<string, string[]>
        {
            ["driver"] = ["nvcuda.dll"],
            ["cudart"] = ["cudart64_13.dll", "cudart64_12.dll", "cudart64_110.dll"],
            ["cublasLt"] = ["cublasLt64_13.dll", "cublasLt64_12.dll", "cublasLt64_11.dll"],
        }
        : new Dictionary<string, string[]>
        {
            ["driver"] = ["libcuda.so.1"],
            ["cudart"] = ["libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0"],
            ["cublasLt"] = ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11"],
        };

    internal static CudaProbe Run(string? folder, bool windows)
    {
        var found = new Dictionary<string, string?>(StringComparer.Ordinal);
        nint driver = 0;
        try
        {
            foreach ((string role, string[] names) in FileNames(windows))
            {
                found[role] = null;
                foreach (string name in names)
                {
                    if (!TryLoad(folder, name, out nint handle))
                        continue;
                    found[role] = name;
                    if (role == "driver")
                        driver = handle;
                    else
                        NativeLibrary.Free(handle);
                    break;
                }
            }

            if (driver == 0)
                return new CudaProbe(found, [], $"{FileNames(windows)["driver"][0]} is not found: there is no NVIDIA driver");
            (List<CudaDevice> devices, string? fault) = Query(driver);
            string? missing = found.FirstOrDefault(l => l.Value is null).Key;
            return new CudaProbe(found, devices, fault ?? (missing is null ? null : $"{missing} is not found under any of {string.Join(", ", FileNames(windows)[missing])}; {PathVariable} may name its folder"));
        }
        finally
        {
            if (driver != 0)
                NativeLibrary.Free(driver);
        }
    }

    /// <inheritdoc/>
    public override string ToString()
    {
        var text = new StringBuilder(Reason ?? "available");
        foreach (CudaDevice device in Devices)
            text.Append($"; {device.Index}: {device.Name}, sm_{device.ComputeCapability.Major}{device.ComputeCapability.Minor}, {device.MemoryBytes >> 20:N0} MiB");
        return text.ToString();
    }

    private static bool TryLoad(string? folder, string name, out nint handle) =>
        (!string.IsNullOrEmpty(folder) && NativeLibrary.TryLoad(Path.Combine(folder, name), out handle)) || NativeLibrary.TryLoad(name, out handle);

    private static unsafe (List<CudaDevice> Found, string? Fault) Query(nint driver)
    {
        var devices = new List<CudaDevice>();
        int code = ((delegate* unmanaged<uint, int>)Export("cuInit"))(0);
        if (code != 0)
            return (devices, $"the driver is there, but cuInit returned {code}{(code == 100 ? " (no device)" : "")}");
        int count;
        Check("cuDeviceGetCount", ((delegate* unmanaged<int*, int>)Export("cuDeviceGetCount"))(&count));
        byte* name = stackalloc byte[256];
        for (int i = 0; i < count; i++)
        {
            int device, major, minor;
            nuint bytes;
            Check("cuDeviceGet", ((delegate* unmanaged<int*, int, int>)Export("cuDeviceGet"))(&device, i));
            Check("cuDeviceGetName", ((delegate* unmanaged<byte*, int, int, int>)Export("cuDeviceGetName"))(name, 256, device));
            Check("cuDeviceTotalMem", ((delegate* unmanaged<nuint*, int, int>)Export("cuDeviceTotalMem_v2"))(&bytes, device));
            var attribute = (delegate* unmanaged<int*, int, int, int>)Export("cuDeviceGetAttribute");
            Check("cuDeviceGetAttribute", attribute(&major, ComputeCapabilityMajor, device));
            Check("cuDeviceGetAttribute", attribute(&minor, ComputeCapabilityMinor, device));
            devices.Add(new CudaDevice(i, Marshal.PtrToStringUTF8((nint)name)!, new Version(major, minor), bytes));
        }

        return (devices, count == 0 ? "the driver is there, but reports no device" : null);

        nint Export(string entry) => NativeLibrary.GetExport(driver, entry);

        static void Check(string call, int result)
        {
            if (result != 0)
                throw new InvalidOperationException($"{call} returned {result}.");
        }
    }
}
