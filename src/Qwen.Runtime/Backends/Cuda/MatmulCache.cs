using Qwen.Native.Device;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>The products that were asked for, each prepared once.</summary>
/// <param name="device">What prepares them.</param>
internal sealed class MatmulCache(IDevice device) : IDisposable
{
    // Chunks of prompts have any number of tokens; what is held of them is bounded.
    private const int Most = 4096;

    private readonly Dictionary<MatmulShape, IMatmul> _prepared = [];

    /// <summary>The product of a shape.</summary>
    public IMatmul this[in MatmulShape shape]
    {
        get
        {
            if (_prepared.TryGetValue(shape, out IMatmul? matmul))
                return matmul;
            if (_prepared.Count == Most)
                Dispose();
            return _prepared[shape] = device.CreateMatmul(shape);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (IMatmul matmul in _prepared.Values)
            matmul.Dispose();
        _prepared.Clear();
    }
}
