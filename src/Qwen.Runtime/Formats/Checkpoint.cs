using System.Text.Json.Nodes;

namespace Qwen.Runtime.Formats;

/// <summary>The tensors of a model, by name, where its files are mapped. Opening reads only headers; disposing unmaps.</summary>
public sealed class Checkpoint : IDisposable
{
    private readonly IReadOnlyList<IDisposable> _memory;
    private readonly Dictionary<string, Tensor> _tensors;

    /// <summary>A checkpoint made in memory, with what its config.json would say.</summary>
    internal Checkpoint(string path, IEnumerable<Tensor> tensors, JsonObject config, IReadOnlyList<IDisposable> memory)
        : this(path, tensors, metadata: null, memory) => Config = config;

    internal Checkpoint(string path, IEnumerable<Tensor> tensors, GgufMetadata? metadata, IReadOnlyList<IDisposable> memory)
    {
        Path = path;
        Metadata = metadata;
        _memory = memory;
        _tensors = [];
        foreach (Tensor tensor in tensors)
        {
            if (!_tensors.TryAdd(tensor.Name, tensor))
                throw new ModelFormatException(tensor.File, $"tensor '{tensor.Name}' is there twice");
        }
    }

    /// <summary>What was opened.</summary>
    public string Path { get; }

    /// <summary>The folder that configuration files lie in.</summary>
    public string Directory => System.IO.Directory.Exists(Path) ? Path : System.IO.Path.GetDirectoryName(System.IO.Path.GetFullPath(Path)) ?? ".";

    /// <summary>All tensors.</summary>
    public IReadOnlyDictionary<string, Tensor> Tensors => _tensors;

    /// <summary>GGUF's key-value pairs; null for safetensors.</summary>
    public GgufMetadata? Metadata { get; }

    /// <summary>config.json of a checkpoint made in memory; null where it lies in the directory.</summary>
    internal JsonObject? Config { get; }

    /// <summary>Opens a directory in Hugging Face layout, a <c>.safetensors</c> file or index, a <c>.gguf</c> file (any shard of a split), or makes up a <c>synthetic:</c> one.</summary>
    /// <param name="path">What to open.</param>
    /// <param name="progress">The fraction made, of a synthetic one.</param>
    /// <exception cref="ModelFormatException">The files are damaged or of a kind that is not supported.</exception>
    /// <exception cref="IOException">They can't be read.</exception>
    public static Checkpoint Open(string path, IProgress<double>? progress = null) => Open(path, p => SyntheticCheckpoint.Create(p, progress));

    /// <summary>As <see cref="Open(string, IProgress{double}?)"/>, but for what asks for no tensor's bytes: those of a synthetic checkpoint are not made.</summary>
    /// <inheritdoc cref="Open(string, IProgress{double}?)" path="/exception"/>
    public static Checkpoint OpenOutline(string path) => Open(path, SyntheticCheckpoint.Outline);

    private static Checkpoint Open(string path, Func<string, Checkpoint> synthetic)
    {
        if (path.StartsWith(SyntheticCheckpoint.Prefix, StringComparison.Ordinal))
            return synthetic(path);
        if (System.IO.Directory.Exists(path))
            return SafeTensors.OpenDirectory(path);
        if (!File.Exists(path))
            throw new FileNotFoundException($"{path}: no such file or directory.", path);
        if (path.EndsWith(".safetensors.index.json", StringComparison.OrdinalIgnoreCase))
            return SafeTensors.OpenIndex(path, path);
        if (path.EndsWith(".safetensors", StringComparison.OrdinalIgnoreCase))
            return SafeTensors.OpenFiles(path, [path]);
        if (path.EndsWith(".gguf", StringComparison.OrdinalIgnoreCase))
            return Gguf.Open(path);
        throw new ModelFormatException(path, "is neither a directory, a .safetensors file nor a .gguf file");
    }

    /// <summary>A tensor that must be there.</summary>
    /// <exception cref="ModelFormatException">It is not.</exception>
    public Tensor Require(string name) => _tensors.TryGetValue(name, out Tensor? tensor) ? tensor : throw new ModelFormatException(Path, $"tensor '{name}' is missing");

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (IDisposable memory in _memory)
            memory.Dispose();
    }

    /// <summary>Maps files and parses each; unmaps all if one is refused.</summary>
    internal static Checkpoint Map(string path, IEnumerable<string> files, Func<MappedFile, (IEnumerable<Tensor> Tensors, GgufMetadata? Metadata)> parse)
    {
        var mapped = new List<MappedFile>();
        try
        {
            var tensors = new List<Tensor>();
            GgufMetadata? metadata = null;
            foreach (string file in files)
            {
                mapped.Add(new MappedFile(file));
                (IEnumerable<Tensor> of, GgufMetadata? its) = parse(mapped[^1]);
                tensors.AddRange(of);
                metadata ??= its; // the first shard has them all
            }

            return new Checkpoint(path, tensors, metadata, mapped);
        }
        catch
        {
            foreach (MappedFile file in mapped)
                file.Dispose();
            throw;
        }
    }
}
