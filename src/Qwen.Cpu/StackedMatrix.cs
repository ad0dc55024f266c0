namespace Qwen.Cpu;

/// <summary>Matrices that share their input, one below the other (query, key and value; gate and up), each with an optional bias.</summary>
/// <remarks>They stay where they are and may differ in type: a mixed GGUF stores the values of some layers more finely than the queries.</remarks>
public sealed unsafe class StackedMatrix
{
    /// <summary>Rows that one piece of work computes: the lanes of an AVX-512 register, and a cache line of results.</summary>
    internal const int TileRows = 16;

    private readonly WeightMatrix[] _parts;
    private readonly float*[] _biases;
    private readonly int[] _firstRows, _firstTiles, _orderOfPart;
    private readonly List<nint> _orders = [];

    /// <summary>Stacks matrices.</summary>
    /// <param name="parts">At least one; all with the same columns.</param>
    /// <param name="biases">For each a pointer to its Rows values, or null; they outlive this object.</param>
    /// <exception cref="ArgumentException">Counts or columns differ, or a part lacks the scales, or has an input order, that its type cannot have.</exception>
    public StackedMatrix(ReadOnlySpan<WeightMatrix> parts, float*[] biases)
    {
        ArgumentOutOfRangeException.ThrowIfZero(parts.Length);
        ArgumentOutOfRangeException.ThrowIfNotEqual(biases.Length, parts.Length);
        _parts = parts.ToArray();
        _biases = biases;
        _firstRows = new int[parts.Length + 1];
        _firstTiles = new int[parts.Length + 1];
        _orderOfPart = new int[parts.Length];
        for (int i = 0; i < parts.Length; i++)
        {
            ArgumentOutOfRangeException.ThrowIfNotEqual(parts[i].Columns, parts[0].Columns);
            _firstRows[i + 1] = checked(_firstRows[i] + parts[i].Rows);
            _firstTiles[i + 1] = _firstTiles[i] + ((parts[i].Rows + TileRows - 1) / TileRows);
            parts[i].CheckExtras();
            if (parts[i].Type.IsFloat)
                continue;
            nint order = (nint)parts[i].InputOrder;
            if (!_orders.Contains(order))
                _orders.Add(order);
            _orderOfPart[i] = _orders.IndexOf(order);
        }
    }

    /// <summary>Rows of all parts.</summary>
    public int Rows => _firstRows[^1];

    /// <summary>Columns of every part.</summary>
    public int Columns => _parts[0].Columns;

    /// <summary>The parts.</summary>
    public ReadOnlySpan<WeightMatrix> Parts => _parts;

    /// <summary>The different orders in which parts take quantized activations; none where all parts compute on F32.</summary>
    internal int Orders => _orders.Count;

    /// <summary>Pieces of work.</summary>
    internal int Tiles => _firstTiles[^1];

    /// <summary>Bias of a part, or null.</summary>
    internal float* Bias(int part) => _biases[part];

    /// <summary>The input feature of each column, for one of the <see cref="Orders"/>; null: as they come.</summary>
    internal int* Order(int index) => (int*)_orders[index];

    /// <summary>Which of the <see cref="Orders"/> a part takes.</summary>
    internal int OrderOf(int part) => _orderOfPart[part];

    /// <summary>First row of a part among all rows.</summary>
    internal int FirstRow(int part) => _firstRows[part];

    /// <summary>First tile of a part among all tiles.</summary>
    internal int FirstTile(int part) => _firstTiles[part];
}
