namespace Qwen.Cpu;

/// <summary>Matrices that share their input, one below the other (query, key and value; gate and up), each with an optional bias.</summary>
/// <remarks>They stay where they are and may differ in type: a mixed GGUF stores the values of some layers more finely than the queries.</remarks>
public sealed unsafe class StackedMatrix
{
    /// <summary>Rows that one piece of work computes: the lanes of an AVX-512 register, and a cache line of results.</summary>
    internal const int TileRows = 16;

    private readonly WeightMatrix[] _parts;
    private readonly float*[] _biases;
    private readonly int[] _firstRows, _firstTiles;

    /// <summary>Stacks matrices.</summary>
    /// <param name="parts">At least one; all with the same columns.</param>
    /// <param name="biases">For each a pointer to its Rows values, or null; they outlive this object.</param>
    public StackedMatrix(ReadOnlySpan<WeightMatrix> parts, float*[] biases)
    {
        ArgumentOutOfRangeException.ThrowIfZero(parts.Length);
        ArgumentOutOfRangeException.ThrowIfNotEqual(biases.Length, parts.Length);
        _parts = parts.ToArray();
        _biases = biases;
        _firstRows = new int[parts.Length + 1];
        _firstTiles = new int[parts.Length + 1];
        for (int i = 0; i < parts.Length; i++)
        {
            ArgumentOutOfRangeException.ThrowIfNotEqual(parts[i].Columns, parts[0].Columns);
            _firstRows[i + 1] = checked(_firstRows[i] + parts[i].Rows);
            _firstTiles[i + 1] = _firstTiles[i] + ((parts[i].Rows + TileRows - 1) / TileRows);
            HasFloats |= parts[i].Type.IsFloat;
            HasIntegers |= !parts[i].Type.IsFloat;
        }
    }

    /// <summary>Rows of all parts.</summary>
    public int Rows => _firstRows[^1];

    /// <summary>Columns of every part.</summary>
    public int Columns => _parts[0].Columns;

    /// <summary>The parts.</summary>
    public ReadOnlySpan<WeightMatrix> Parts => _parts;

    /// <summary>Some part computes on F32 activations.</summary>
    internal bool HasFloats { get; }

    /// <summary>Some part computes on quantized activations.</summary>
    internal bool HasIntegers { get; }

    /// <summary>Pieces of work.</summary>
    internal int Tiles => _firstTiles[^1];

    /// <summary>Bias of a part, or null.</summary>
    internal float* Bias(int part) => _biases[part];

    /// <summary>First row of a part among all rows.</summary>
    internal int FirstRow(int part) => _firstRows[part];

    /// <summary>First tile of a part among all tiles.</summary>
    internal int FirstTile(int part) => _firstTiles[part];
}
