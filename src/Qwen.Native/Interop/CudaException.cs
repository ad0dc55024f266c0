using System.Runtime.CompilerServices;
using Qwen.Native.Device;

namespace Qwen.Native.Interop;

/// <summary>A call of one of NVIDIA's libraries failed.</summary>
public sealed class CudaException : DeviceException
{
    internal CudaException(string call, int code, string name, string meaning, string? details = null, bool contextLost = false)
        : base($"{call} failed: {name} ({code}){(meaning.Length == 0 ? "" : ": ")}{meaning}{(details is null ? "." : $"; {details}")}")
    {
        Call = call;
        Code = code;
        ContextLost = contextLost;
    }

    /// <summary>The function that failed, by its name in the vendor's documentation.</summary>
    public string Call { get; }

    /// <summary>What it returned.</summary>
    public int Code { get; }

    /// <summary>Whether the device can't be used any more by this process: a kernel faulted, and every later call fails alike.</summary>
    public bool ContextLost { get; }
}

/// <summary>Turns the libraries' result codes into exceptions. The call is named by the source text of the argument.</summary>
internal static class CudaResults
{
    /// <summary>Throws unless the call succeeded.</summary>
    public static void Check(this CuResult result, [CallerArgumentExpression(nameof(result))] string call = "")
    {
        if (result != CuResult.Success)
            throw Failure(result, call);
    }

    /// <summary>Throws unless the call succeeded.</summary>
    public static void Check(this CublasStatus status, [CallerArgumentExpression(nameof(status))] string call = "")
    {
        if (status != CublasStatus.Success)
            throw new CudaException(Name("cublasLt", call), (int)status, CublasLtApi.StatusName(status), "");
    }

    /// <summary>The exception for a failed driver call.</summary>
    /// <param name="result">What it returned.</param>
    /// <param name="call">Its source text, such as <c>CudaDriver.MemAlloc(out nint p, 1)</c>.</param>
    /// <param name="details">What else helps.</param>
    public static CudaException Failure(CuResult result, string call, string? details = null) => new(
        Name("cu", call), (int)result, CudaDriver.ErrorName(result), CudaDriver.ErrorMeaning(result), details, LosesContext(result));

    private static bool LosesContext(CuResult result) => result is CuResult.EccUncorrectable or CuResult.IllegalAddress or CuResult.LaunchTimeout
        or CuResult.ContextIsDestroyed or CuResult.Assert or (>= CuResult.HardwareStackError and <= CuResult.LaunchFailed);

    /// <summary>cuMemAlloc for <c>CudaDriver.MemAlloc(...)</c>.</summary>
    private static string Name(string prefix, string call)
    {
        string head = call.Split('(')[0];
        return prefix + head[(head.LastIndexOf('.') + 1)..];
    }
}
