using Qwen.Native.Interop;

namespace Qwen.Native.Device;

/// <summary>A captured sequence of calls, ready to run on a real device.</summary>
internal sealed unsafe class CudaGraph : IDeviceGraph
{
    private readonly CudaGraphExecHandle _handle;

    /// <param name="context">The context of the stream.</param>
    /// <param name="graph">What was captured; not needed any more afterwards.</param>
    /// <param name="stream">A stream that the graph's device side is put up on, so that the first launch need not.</param>
    public CudaGraph(CudaContextHandle context, CudaGraphHandle graph, CudaStreamHandle stream)
    {
        nuint count = 0;
        CudaDriver.GraphGetNodes(graph, null, ref count).Check();
        Nodes = (int)count;
        CudaDriver.GraphInstantiateWithFlags(out _handle, graph, 0).Check();
        _handle.BelongTo(context);
        CudaDriver.GraphUpload(_handle, stream).Check();
    }

    /// <inheritdoc/>
    public int Nodes { get; }

    /// <summary>CUgraphExec.</summary>
    public CudaGraphExecHandle Handle => _handle;

    /// <inheritdoc/>
    public void Dispose() => _handle.Dispose();
}
