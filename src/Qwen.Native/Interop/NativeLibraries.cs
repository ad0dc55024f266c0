using System.Reflection;
using System.Runtime.InteropServices;
using Qwen.Native.Device;

namespace Qwen.Native.Interop;

/// <summary>
/// Finds NVIDIA's libraries. Each has one name per major version and lies in one of a few places; the first place that has any of the names
/// wins, and in a place the newest name that the driver can serve, so that a folder given by hand beats a newer toolkit elsewhere.
/// </summary>
public static class NativeLibraries
{
    /// <summary>The environment variable with folders to search first, separated as in PATH: a toolkit, its <c>lib64</c>, or Python's <c>site-packages</c>.</summary>
    public const string PathVariable = "QWEN_CUDA_PATH";

    /// <summary>The display driver's CUDA API; a part of the driver, without versions.</summary>
    internal const string Driver = "cuda";

    /// <summary>CUDA's runtime. Asked for its version only.</summary>
    internal const string Runtime = "cudart";

    /// <summary>Matrix products. It carries its own copy of the runtime.</summary>
    internal const string BlasLt = "cublasLt";

    /// <summary>The driver's PTX compiler, which works without a GPU.</summary>
    internal const string PtxCompiler = "nvptxcompiler";

    private static readonly Lock Gate = new();
    private static readonly Dictionary<string, (nint Handle, string Path)> Loaded = new(StringComparer.Ordinal);
    private static string? preferred;
    private static bool registered;

    /// <summary>Makes the bindings of this assembly resolve here. Every binding class calls it before its first call.</summary>
    internal static void Register()
    {
        lock (Gate)
        {
            if (!registered)
                NativeLibrary.SetDllImportResolver(typeof(NativeLibraries).Assembly, Resolve);
            registered = true;
        }
    }

    /// <summary>Searches a folder before all others, for what has not been loaded yet.</summary>
    internal static void Prefer(string folder)
    {
        lock (Gate)
            preferred = folder;
    }

    /// <summary>What a library may be called, newest first.</summary>
    /// <param name="library">One of the constants above.</param>
    /// <param name="windows">On Windows, or on Linux.</param>
    /// <param name="driverMajor">CUDA's major version that the driver serves: libraries of a newer one do not run on it.</param>
    internal static IReadOnlyList<string> FileNames(string library, bool windows, int driverMajor = int.MaxValue)
    {
        (int Major, string Linux, string Windows)[] names = library switch
        {
            Driver => [(0, "libcuda.so.1", "nvcuda.dll")],
            Runtime => [(13, "libcudart.so.13", "cudart64_13.dll"), (12, "libcudart.so.12", "cudart64_12.dll"), (11, "libcudart.so.11.0", "cudart64_110.dll")],
            BlasLt => [(13, "libcublasLt.so.13", "cublasLt64_13.dll"), (12, "libcublasLt.so.12", "cublasLt64_12.dll"), (11, "libcublasLt.so.11", "cublasLt64_11.dll")],
            PtxCompiler => [(0, "libnvidia-ptxjitcompiler.so.1", "nvptxJITCompiler64.dll")],
            _ => throw new ArgumentOutOfRangeException(nameof(library), library, null),
        };
        return [.. names.Where(n => n.Major <= driverMajor).Select(n => windows ? n.Windows : n.Linux)];
    }

    /// <summary>Where libraries are looked for, in order. An empty string stands for the system's own search.</summary>
    /// <param name="windows">On Windows, or on Linux.</param>
    /// <param name="variable">Reads an environment variable.</param>
    /// <param name="folders">Lists the folders that match a pattern such as <c>/usr/local/cuda*</c>, any order.</param>
    internal static IEnumerable<string> Folders(bool windows, Func<string, string?> variable, Func<string, IEnumerable<string>> folders)
    {
        char separator = windows ? ';' : ':';
        string[] inside = windows ? ["", "bin", "bin/x64", "nvidia/*/bin"] : ["", "lib64", "lib", "nvidia/*/lib"];
        foreach (string given in Split(PathVariable))
        {
            foreach (string folder in inside.SelectMany(i => Match($"{given}/{i}")))
                yield return folder;
        }

        yield return "";
        foreach (string toolkit in Split("CUDA_PATH").Concat(Split("CUDA_HOME")))
        {
            foreach (string folder in inside.Skip(1).SelectMany(i => Match($"{toolkit}/{i}")))
                yield return folder;
        }

        foreach (string folder in windows ? [] : Match("/usr/local/cuda*/lib64").Concat(["/usr/lib/wsl/lib", "/usr/lib/x86_64-linux-gnu/nvidia/current"]))
            yield return folder;

        string[] Split(string name) => variable(name)?.Split(separator, StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries) ?? [];

        IEnumerable<string> Match(string pattern) => pattern.Contains('*', StringComparison.Ordinal)
            ? folders(pattern).OrderDescending(StringComparer.Ordinal)
            : [pattern.TrimEnd('/')];
    }

    /// <summary>Loads a library, once.</summary>
    /// <returns>Its handle and the file it came from, which is a bare name where the system's search found it.</returns>
    /// <exception cref="DeviceException">There is none; the message says what was looked for, and where.</exception>
    internal static (nint Handle, string Path) Load(string library)
    {
        lock (Gate)
        {
            if (Loaded.TryGetValue(library, out (nint, string) found))
                return found;
            int driverMajor = library is Runtime or BlasLt ? DriverMajor() : int.MaxValue;
            IReadOnlyList<string> names = FileNames(library, OperatingSystem.IsWindows(), driverMajor);
            string[] places = [.. Folders(OperatingSystem.IsWindows(), Environment.GetEnvironmentVariable, Directories)];
            if (preferred is not null)
                places = [preferred, .. places];
            foreach (string path in places.SelectMany(place => names.Select(name => place.Length == 0 ? name : Path.Combine(place, name))))
            {
                if (NativeLibrary.TryLoad(path, out nint handle))
                    return Loaded[library] = (handle, path);
            }

            throw new DeviceException(Missing(library, names, places));
        }
    }

    internal static string Missing(string library, IReadOnlyList<string> names, IReadOnlyList<string> places)
    {
        string what = names.Count == 1 ? names[0] : $"none of {string.Join(", ", names)}";
        string meaning = library == Driver ? "there is no NVIDIA driver" : $"{library} is not installed, or is newer than the driver";
        string where = string.Join(", ", places.Select(p => p.Length == 0 ? "the system's library path" : p));
        return $"{what} {(names.Count == 1 ? "is not" : "was")} found: {meaning} (searched {where}; {PathVariable} may name another folder).";
    }

    private static nint Resolve(string name, Assembly assembly, DllImportSearchPath? searchPath) =>
        name is Driver or Runtime or BlasLt or PtxCompiler ? Load(name).Handle : 0;

    /// <summary>CUDA's major version that the driver serves; no bound where there is no driver to ask.</summary>
    private static int DriverMajor()
    {
        try
        {
            Load(Driver);
        }
        catch (DeviceException)
        {
            return int.MaxValue; // Versions and marshalling can be looked at without a driver.
        }

        CudaDriver.DriverGetVersion(out int version).Check();
        return version / 1000;
    }

    private static IEnumerable<string> Directories(string pattern)
    {
        int star = pattern.IndexOf('*', StringComparison.Ordinal);
        int start = pattern.LastIndexOf('/', star), end = pattern.IndexOf('/', star);
        string parent = pattern[..start], name = pattern[(start + 1)..end], rest = pattern[(end + 1)..];
        return Directory.Exists(parent) ? Directory.EnumerateDirectories(parent, name).Select(d => Path.Combine(d, rest)).Where(Directory.Exists) : [];
    }
}
