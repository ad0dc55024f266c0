using Qwen.Cpu;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Backends;

/// <summary>Activations in native memory.</summary>
internal sealed unsafe class CpuActivations(int rows, int columns) : Activations(rows, columns)
{
    private readonly NativeBuffer<float> _values = new((long)rows * columns);

    public float* Values => _values.Pointer;

    public override void Dispose() => _values.Dispose();
}

/// <summary>A vector as F32: the mapped bytes themselves are used for matrices only.</summary>
internal sealed unsafe class CpuVectorWeights : VectorWeights
{
    private readonly NativeBuffer<float> _values;

    public CpuVectorWeights(Tensor tensor)
        : base(checked((int)tensor.ElementCount))
    {
        _values = new NativeBuffer<float>(Length);
        Dequantizer.Dequantize(tensor.Type, tensor.Bytes, _values.Span);
    }

    public float* Values => _values.Pointer;

    public override void Dispose() => _values.Dispose();
}
