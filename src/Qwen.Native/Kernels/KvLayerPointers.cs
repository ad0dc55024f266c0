using Qwen.Native.Device;

namespace Qwen.Native.Kernels;

/// <summary>The paged keys and values of one layer in device memory: each [blocks][kvHeads][blockSize][headDim].</summary>
/// <param name="Keys">The keys.</param>
/// <param name="Values">The values.</param>
/// <param name="KeyScales">F32 [blocks][kvHeads][blockSize], of an S8 cache.</param>
/// <param name="ValueScales">Likewise.</param>
public readonly record struct KvLayerPointers(DevicePointer Keys, DevicePointer Values, DevicePointer KeyScales = default, DevicePointer ValueScales = default);
