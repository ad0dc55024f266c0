using System.Runtime.InteropServices;
using System.Text;
using System.Text.RegularExpressions;
using Qwen.Native.Device;

namespace Qwen.Native.Interop;

/// <summary>What the assembler says of a kernel.</summary>
/// <param name="Name">The entry.</param>
/// <param name="Registers">Registers a thread.</param>
/// <param name="SharedBytes">Static shared memory of a block.</param>
/// <param name="StackBytes">Stack of a thread, in local memory.</param>
/// <param name="SpillStoreBytes">Bytes of registers that a thread writes to local memory for want of room.</param>
/// <param name="SpillLoadBytes">Bytes that it reads back.</param>
public sealed record AssembledKernel(string Name, int Registers, int SharedBytes, int StackBytes, int SpillStoreBytes, int SpillLoadBytes);

/// <summary>NVIDIA's assembler, from the driver's library or one put in a folder; works without a GPU.</summary>
public static unsafe partial class PtxCompiler
{
    /// <summary>The CUDA version of the compiler, such as 12.4; it takes the PTX version of that release.</summary>
    /// <exception cref="DeviceException">There is none; the message says what was looked for, and where.</exception>
    public static Version Version
    {
        get
        {
            Check(PtxCompilerApi.GetVersion(out uint major, out uint minor), nameof(PtxCompilerApi.GetVersion));
            return new Version((int)major, (int)minor);
        }
    }

    /// <summary>The newest PTX version that it takes, times ten.</summary>
    public static int PtxVersion => PtxVersions.Of((Version.Major * 1000) + (Version.Minor * 10));

    /// <summary>Searches a folder for the library before all other places. Only before the first use.</summary>
    public static void Prefer(string folder) => NativeLibraries.Prefer(folder);

    /// <summary>Compiles PTX text to machine code, which is dropped.</summary>
    /// <param name="ptx">The text.</param>
    /// <param name="target">The real target, such as <c>sm_90a</c>.</param>
    /// <returns>Each entry, in the order of the compiler.</returns>
    /// <exception cref="DeviceException">It is refused; the message has the compiler's log and the lines it names.</exception>
    public static IReadOnlyList<AssembledKernel> Compile(string ptx, string target)
    {
        byte[] image = Encoding.UTF8.GetBytes(ptx + '\0');
        PtxCompilerHandle compiler;
        fixed (byte* text = image)
            Check(PtxCompilerApi.Create(out compiler, (nuint)image.Length, text), nameof(PtxCompilerApi.Create));
        using (compiler)
        {
            fixed (byte* name = Encoding.UTF8.GetBytes($"--gpu-name={target}\0"), verbose = "--verbose\0"u8)
            {
                byte** options = stackalloc byte*[] { name, verbose };
                PtxCompileResult result = PtxCompilerApi.Compile(compiler, 2, options);
                if (result != PtxCompileResult.Success)
                    throw new DeviceException($"The PTX compiler {Version} refuses this for {target} ({result}):{JitLog.Explain(ErrorLog(compiler), ptx)}");
            }

            return Parse(InfoLog(compiler));
        }
    }

    /// <summary>Reads the verbose log.</summary>
    internal static IReadOnlyList<AssembledKernel> Parse(string log)
    {
        var kernels = new List<AssembledKernel>();
        foreach (string section in log.Split("Compiling entry function").Skip(1))
        {
            kernels.Add(new AssembledKernel(
                EntryName().Match(section).Groups[1].Value, Number(Registers(), section), Number(Shared(), section),
                Number(Stack(), section), Number(SpillStores(), section), Number(SpillLoads(), section)));
        }

        return kernels;

        static int Number(Regex pattern, string text) => pattern.Match(text) is { Success: true } match ? int.Parse(match.Groups[1].Value) : 0;
    }

    private static string ErrorLog(PtxCompilerHandle compiler)
    {
        Check(PtxCompilerApi.GetErrorLogSize(compiler, out nuint bytes), nameof(PtxCompilerApi.GetErrorLogSize));
        byte[] log = new byte[bytes + 1];
        fixed (byte* text = log)
            Check(PtxCompilerApi.GetErrorLog(compiler, text), nameof(PtxCompilerApi.GetErrorLog));
        return Encoding.UTF8.GetString(log).TrimEnd('\0');
    }

    private static string InfoLog(PtxCompilerHandle compiler)
    {
        Check(PtxCompilerApi.GetInfoLogSize(compiler, out nuint bytes), nameof(PtxCompilerApi.GetInfoLogSize));
        byte[] log = new byte[bytes + 1];
        fixed (byte* text = log)
            Check(PtxCompilerApi.GetInfoLog(compiler, text), nameof(PtxCompilerApi.GetInfoLog));
        return Encoding.UTF8.GetString(log).TrimEnd('\0');
    }

    private static void Check(PtxCompileResult result, string call)
    {
        if (result != PtxCompileResult.Success)
            throw new CudaException("nvPTXCompiler" + call, (int)result, result.ToString(), "");
    }

    [GeneratedRegex("^ '([^']+)'")]
    private static partial Regex EntryName();

    [GeneratedRegex(@"Used (\d+) registers")]
    private static partial Regex Registers();

    [GeneratedRegex(@"(\d+) bytes smem")]
    private static partial Regex Shared();

    [GeneratedRegex(@"(\d+) bytes stack frame")]
    private static partial Regex Stack();

    [GeneratedRegex(@"(\d+) bytes spill stores")]
    private static partial Regex SpillStores();

    [GeneratedRegex(@"(\d+) bytes spill loads")]
    private static partial Regex SpillLoads();
}
