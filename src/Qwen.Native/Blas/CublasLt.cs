using Qwen.Native.Device;
using Qwen.Native.Interop;

namespace Qwen.Native.Blas;

/// <summary>The library on one device: its handle, and the algorithm it chose for each shape seen.</summary>
internal sealed unsafe class CublasLt : IDisposable
{
    /// <summary>Scratch memory that an algorithm may use: NVIDIA's advice for 9.0, and no algorithm for lesser devices wants more.</summary>
    public const int WorkspaceBytes = 32 << 20;

    private readonly CublasLtHandle _handle;
    private readonly int _computeCapability;
    private readonly Dictionary<MatmulShape, CublasLtHeuristicResult> _chosen = [];

    /// <param name="computeCapability">Of the device whose context is current.</param>
    public CublasLt(int computeCapability)
    {
        _computeCapability = computeCapability;
        Version = (int)CublasLtApi.GetVersion();
        CublasLtApi.Create(out _handle).Check();
    }

    /// <summary>major * 10000 + minor * 100 + patch.</summary>
    public int Version { get; }

    /// <summary>Why a shape is not computed; null where it is.</summary>
    public string? WhyNot(in MatmulShape shape) => MatmulRules.WhyNot(shape, _computeCapability, Version);

    /// <summary>Prepares a product.</summary>
    /// <exception cref="NotSupportedException">The rules, or the library itself, refuse it.</exception>
    public CublasLtMatmul Prepare(in MatmulShape shape)
    {
        if (WhyNot(shape) is { } reason)
            throw new NotSupportedException($"cublasLt {Version}: {reason} ({shape}).");
        var matmul = new CublasLtMatmul(_handle, shape);
        try
        {
            // The library keeps such a cache too, but asking it takes tens of microseconds and a preference.
            if (!_chosen.TryGetValue(shape, out CublasLtHeuristicResult chosen))
                _chosen.Add(shape, chosen = matmul.AskLibrary() ?? throw new NotSupportedException($"cublasLt {Version} has no algorithm for {shape}."));
            matmul.Use(chosen);
            return matmul;
        }
        catch
        {
            matmul.Dispose();
            throw;
        }
    }

    public void Dispose() => _handle.Dispose();
}
