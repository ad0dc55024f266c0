using Qwen.Native.Device;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>The ops of decoding steps as captured graphs: a step of hundreds of launches becomes one.</summary>
/// <param name="stream">What runs them.</param>
internal sealed class DecodeGraphs(IDeviceStream stream) : IDisposable
{
    private readonly Dictionary<(Action Ops, KvCache Cache, int Rows), IDeviceGraph?> _graphs = [];

    /// <summary>Graphs that were captured.</summary>
    public int Count { get; private set; }

    /// <summary>Runs the ops of a step: the first of its kind as they are, so that kernels are compiled and products prepared; the second captured; then replayed.</summary>
    /// <param name="ops">The ops.</param>
    /// <param name="cache">What they read and write, at addresses that are captured too.</param>
    /// <param name="rows">Rows of the padded step.</param>
    public void Run(Action ops, KvCache cache, int rows)
    {
        if (!_graphs.TryGetValue((ops, cache, rows), out IDeviceGraph? graph))
        {
            ops();
            _graphs.Add((ops, cache, rows), null);
            return;
        }

        if (graph is null)
            _graphs[(ops, cache, rows)] = graph = Capture(ops);
        stream.Launch(graph);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (IDeviceGraph? graph in _graphs.Values)
            graph?.Dispose();
        _graphs.Clear();
    }

    private IDeviceGraph Capture(Action ops)
    {
        stream.BeginCapture();
        try
        {
            ops();
        }
        catch
        {
            stream.EndCapture().Dispose();
            throw;
        }

        Count++;
        return stream.EndCapture();
    }
}
