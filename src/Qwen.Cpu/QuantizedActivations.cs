using Qwen.Cpu.Quantized;

namespace Qwen.Cpu;

/// <summary>Activations [tokens, columns] rounded to int8, a scale per 32 columns, in memory that the caller owns.</summary>
/// <remarks>
/// A token is one record: codes, then F32 scales per 32, then the integer sums of the codes per 32 and per 16; then these sums
/// times the scale; then the codes once more in the forms that <see cref="PanelDot"/> multiplies: plus 128 in a byte, and, where it has words,
/// as int16, of each 64 columns first the even ones.
/// The sums pay for the weights' offsets and minima, so that no kernel adds up activations.
/// A record is padded with zeros to 512 columns (16 blocks of 32, a vector's lanes), and the memory to four records:
/// kernels read whole vectors and whole tiles, and have no tails.
/// </remarks>
public readonly unsafe struct QuantizedActivations
{
    /// <summary>Columns that share a scale.</summary>
    public const int BlockColumns = 32;

    /// <summary>Even columns, then odd ones, that lie side by side as int16: half of 64.</summary>
    internal const int WordRun = 32;

    private const int RecordColumns = 512;
    private const int TileTokens = 4;

    private readonly byte* _memory;

    /// <summary>Lays records out in <paramref name="memory"/>; <see cref="ActivationQuantizer"/> fills them.</summary>
    /// <param name="memory">At least <see cref="Bytes"/> bytes, aligned to 64.</param>
    /// <param name="tokens">Rows.</param>
    /// <param name="columns">Input features; a multiple of 32.</param>
    /// <exception cref="ArgumentException">The columns are no positive multiple of 32, or the tokens are negative.</exception>
    public QuantizedActivations(byte* memory, int tokens, int columns)
    {
        TokenBytes = RecordBytes(columns);
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        _memory = memory;
        Tokens = tokens;
        Columns = columns;
        PaddedColumns = Pad(columns);
    }

    /// <summary>Rows.</summary>
    public int Tokens { get; }

    /// <summary>Input features.</summary>
    public int Columns { get; }

    /// <summary>Columns with the zeros that follow them: a multiple of 512.</summary>
    internal int PaddedColumns { get; }

    /// <summary>Bytes from a token's record to the next.</summary>
    internal long TokenBytes { get; }

    /// <summary>Bytes that <paramref name="tokens"/> rows of <paramref name="columns"/> take.</summary>
    /// <exception cref="ArgumentException">The columns are no positive multiple of 32, or the tokens are negative.</exception>
    public static long Bytes(int tokens, int columns)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(tokens);
        return checked(((long)tokens + TileTokens - 1) / TileTokens * TileTokens * RecordBytes(columns));
    }

    /// <summary>int8 codes of a token.</summary>
    internal sbyte* Codes(int token) => (sbyte*)(_memory + (token * TokenBytes));

    /// <summary>F32 scales of a token, one per 32 columns.</summary>
    internal float* Scales(int token) => (float*)(Codes(token) + PaddedColumns);

    /// <summary>Sums of a token's codes, one per <paramref name="columns"/> (16 or 32) columns.</summary>
    internal int* Sums(int token, int columns) => (int*)(Scales(token) + (PaddedColumns / (columns == BlockColumns ? 32 : 16)));

    /// <summary><see cref="Sums"/> times the scale of their columns.</summary>
    internal float* ScaledSums(int token, int columns) => (float*)(Sums(token, 16) + (PaddedColumns / 16)) + (columns == BlockColumns ? 0 : PaddedColumns / 32);

    /// <summary>The codes of a token, plus 128.</summary>
    internal byte* UnsignedCodes(int token) => (byte*)(ScaledSums(token, 16) + (PaddedColumns / 16));

    /// <summary>The codes of a token as int16, [columns / 64, even and odd, 32], where <see cref="PanelDot.HasWords"/>.</summary>
    internal short* WideCodes(int token) => (short*)(UnsignedCodes(token) + PaddedColumns);

    private static int Pad(int columns) => checked(columns + RecordColumns - 1) / RecordColumns * RecordColumns;

    private static long RecordBytes(int columns)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(columns);
        if (columns % BlockColumns != 0)
            throw new ArgumentException($"{columns} columns are no multiple of {BlockColumns}.", nameof(columns));
        long padded = Pad(columns);
        return (padded * (2 + (PanelDot.HasWords ? sizeof(short) : 0))) + (padded / 32 * (2 * sizeof(float) + sizeof(int))) + (padded / 16 * (sizeof(float) + sizeof(int)));
    }
}
