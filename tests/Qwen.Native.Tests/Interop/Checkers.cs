using System.Runtime.CompilerServices;
using Qwen.Native.Device;
using Qwen.Native.Interop;

namespace Qwen.Native.Tests.Interop;

/// <summary>NVIDIA's libraries as <c>.ci/fetch-cuda-checkers</c> fetched them; tests that need one are skipped where it is not.</summary>
internal static class Checkers
{
    public static string Folder { get; } = Environment.GetEnvironmentVariable("QWEN_CUDA_CHECKERS")
        ?? Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".cache", "qwen-net", "cuda");

    /// <summary>The libraries are found there before anything is loaded.</summary>
    [ModuleInitializer]
    internal static void Prefer()
    {
        if (Directory.Exists(Folder))
            NativeLibraries.Prefer(Folder);
    }

    /// <summary>Skips the test unless the library can be loaded, from there or from the system.</summary>
    /// <returns>Its handle.</returns>
    public static nint Need(string library)
    {
        try
        {
            return NativeLibraries.Load(library).Handle;
        }
        catch (DeviceException e)
        {
            Skip.If(true, $"{e.Message} .ci/fetch-cuda-checkers fetches it.");
            throw;
        }
    }
}
