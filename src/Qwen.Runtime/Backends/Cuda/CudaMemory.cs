using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>Activations in device memory.</summary>
internal sealed class CudaActivations(int rows, int columns, ElementType type, DevicePointer pointer) : Activations(rows, columns)
{
    /// <summary>Type of a value.</summary>
    public ElementType Type { get; } = type;

    /// <summary>[Rows, Columns].</summary>
    public DevicePointer Pointer { get; } = pointer;

    /// <summary>Where not None: they are E4M3 codes now, as the product wants them that reads them next, with scales behind.</summary>
    public MatmulScale Quantized { get; set; }

    /// <summary>Of codes: F32, as <see cref="MatmulScale"/> says. Codes take half of the memory, and their scales a part of the other.</summary>
    public DevicePointer Scales => Pointer + DeviceArena.Round((long)Rows * Columns);

    /// <summary>Of a normed hidden state that the product before left to be divided: by what.</summary>
    public FusedNormArguments Norm { get; set; }

    /// <summary>Their copy on the host, once they were read or written there.</summary>
    public PinnedBuffer? Host { get; set; }

    /// <summary>Which rows were read last, and in which step: see <see cref="CudaBackend.Read"/>.</summary>
    public (int First, int End, long Step) Read { get; set; }

    public override void Dispose() => Host?.Dispose();
}

/// <summary>A vector of F32 in device memory.</summary>
internal sealed class CudaVector(int length, DevicePointer pointer) : VectorWeights(length)
{
    public DevicePointer Pointer { get; } = pointer;

    public override void Dispose()
    {
    }
}
