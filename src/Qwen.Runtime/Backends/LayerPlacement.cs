namespace Qwen.Runtime.Backends;

/// <summary>Which backend computes what: the embedding, each layer, and the final norm with the output projection.</summary>
/// <remarks>
/// Where neighbours differ, the hidden state is copied across. Where a GPU takes a part of a model only, it is the last part: the embedding
/// is a look-up that needs no speed and stays in the mapped file, while the output projection, the largest matrix of all, and the choice of
/// the token are on the GPU; and the hidden state crosses once.
/// </remarks>
public sealed class LayerPlacement
{
    private readonly List<(IBackend Backend, int FirstLayer, int Layers)> _runs = [];

    /// <summary>A placement.</summary>
    /// <param name="embedding">Computes the embedding.</param>
    /// <param name="layers">Computes each layer.</param>
    /// <param name="output">Computes the final norm and the output projection.</param>
    public LayerPlacement(IBackend embedding, IReadOnlyList<IBackend> layers, IBackend output)
    {
        Layers = layers.Count;
        _runs.Add((embedding, 0, 0));
        for (int i = 0; i < layers.Count; i++)
            Put(layers[i], i, 1);
        Put(output, layers.Count, 0);
    }

    /// <summary>Decoder layers.</summary>
    public int Layers { get; }

    /// <summary>The stretches of layers that one backend computes, in order; the first has the embedding too, the last one the output.</summary>
    public IReadOnlyList<(IBackend Backend, int FirstLayer, int Layers)> Runs => _runs;

    /// <summary>All of a model on one backend.</summary>
    public static LayerPlacement Whole(IBackend backend, int layers) => Split(backend, backend, layers, layers);

    /// <summary>The last layers and the output on one backend, what comes before on another.</summary>
    public static LayerPlacement Split(IBackend first, IBackend last, int layers, int lastLayers) =>
        new(first, [.. Enumerable.Range(0, layers).Select(i => i < layers - lastLayers ? first : last)], last);

    private void Put(IBackend backend, int layer, int count)
    {
        (IBackend previous, int first, int layers) = _runs[^1];
        if (previous == backend)
            _runs[^1] = (previous, first, layers + count);
        else
            _runs.Add((backend, layer, count));
    }
}
