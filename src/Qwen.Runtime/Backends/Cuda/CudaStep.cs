using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>
/// What a step's kernels read of its batch: token ids, positions, slots, logit rows, sequences and their block tables, as 32-bit numbers at
/// addresses that never change, brought over by one copy.
/// </summary>
/// <remarks>
/// A step in which every sequence decodes one token is padded to a batch size that graphs are captured for. Padding rows are token 0 at
/// position 0, of sequences without positions, which attend to nothing and of which nothing is stored.
/// </remarks>
internal sealed unsafe class CudaStep : IDisposable
{
    /// <summary>The most rows that are padded, and captured: beyond, kernels run long enough to hide their launches.</summary>
    public const int MaxPaddedRows = 256;

    private const int EntryNumbers = 4; // of a decoding sequence

    private readonly int _maxTokens, _maxSequences, _blocksPerSequence;
    private readonly int[] _offsets = new int[(int)Field.BlockTables + 1];
    private readonly PinnedBuffer? _host;
    private readonly IDeviceEvent? _copied;
    private readonly DevicePointer _device;

    /// <summary>Room for steps.</summary>
    /// <param name="device">The device; null to measure only.</param>
    /// <param name="arena">Where the numbers lie.</param>
    /// <param name="maxTokens">Most tokens, padding included.</param>
    /// <param name="maxSequences">Most sequences, padding included.</param>
    /// <param name="blocksPerSequence">Blocks of the longest sequence.</param>
    public CudaStep(IDevice? device, DeviceArena arena, int maxTokens, int maxSequences, int blocksPerSequence)
    {
        _maxTokens = maxTokens;
        _maxSequences = maxSequences;
        _blocksPerSequence = blocksPerSequence;
        for (int i = 1; i < _offsets.Length; i++)
            _offsets[i] = _offsets[i - 1] + ((Numbers((Field)(i - 1)) + 3) / 4 * 4); // each field 16-byte aligned
        long bytes = (_offsets[^1] + ((long)maxSequences * blocksPerSequence)) * sizeof(int);
        _device = arena.Take(bytes);
        if (device is null)
            return;
        _host = device.AllocatePinned(bytes);
        _copied = device.CreateEvent();
    }

    private enum Field
    {
        Tokens,
        Positions,
        Slots,
        LogitRows,
        FirstToken,
        SequenceTokens,
        FirstPosition,
        Decoding,
        Prefilling,
        BlockTables,
    }

    /// <summary>Token ids [tokens].</summary>
    public DevicePointer Tokens => At(Field.Tokens);

    /// <summary>Positions [tokens]; -1 of tokens that are decoded, which attention itself rotates.</summary>
    public DevicePointer Positions => At(Field.Positions);

    /// <summary>Slots of the cache [tokens].</summary>
    public DevicePointer Slots => At(Field.Slots);

    /// <summary>Rows whose logits are wanted [logit rows].</summary>
    public DevicePointer LogitRows => At(Field.LogitRows);

    /// <summary>The sequences: first row, rows, position of the first row, and blocks.</summary>
    public SequenceTable Sequences => new(At(Field.FirstToken), At(Field.SequenceTokens), At(Field.FirstPosition), At(Field.BlockTables), _blocksPerSequence);

    /// <summary>The sequences with one row, and padding.</summary>
    public DecodingSequences Decoding => new(At(Field.Decoding), DecodingCount, At(Field.BlockTables), _blocksPerSequence);

    /// <summary>Indices of the others.</summary>
    public DevicePointer Prefilling => At(Field.Prefilling);

    /// <summary>Rows of tokens, padding included.</summary>
    public int TokenRows { get; private set; }

    /// <summary>Sequences with one row, padding included.</summary>
    public int DecodingCount { get; private set; }

    /// <summary>The other sequences.</summary>
    public int PrefillingCount { get; private set; }

    /// <summary>Most rows of a sequence.</summary>
    public int LongestChunk { get; private set; }

    /// <summary>The padded step's rows: of tokens, sequences and logits alike; 0 where the step isn't padded.</summary>
    public int PaddedRows { get; private set; }

    /// <summary>The rows that an op works on which is asked for so many.</summary>
    public int Rows(int rows) => PaddedRows > 0 ? PaddedRows : rows;

    /// <summary>The size that a decoding batch is padded to: 1, 2, 4 and multiples of 8.</summary>
    public static int Padded(int rows) => rows <= 2 ? rows : rows <= 4 ? 4 : (rows + 7) / 8 * 8;

    /// <summary>Packs a step's numbers and copies them.</summary>
    /// <param name="stream">What copies.</param>
    /// <param name="batch">The step.</param>
    /// <param name="blockSize">Tokens of a block.</param>
    public void Upload(IDeviceStream stream, Batch batch, int blockSize)
    {
        _copied!.Synchronize(); // the copy of the step before has read the host's buffer
        int tokens = batch.TokenCount, sequences = batch.SequenceCount;
        Host(Field.Tokens, batch.Tokens, tokens);
        Host(Field.Positions, batch.Positions, tokens);
        Host(Field.Slots, batch.Slots, tokens);
        Host(Field.LogitRows, batch.LogitRows, batch.LogitRowCount);
        DecodingCount = PrefillingCount = LongestChunk = 0;
        for (int i = 0; i < sequences; i++)
        {
            BatchSequence sequence = batch.Sequences[i];
            PutSequence(i, sequence.FirstToken, sequence.Tokens, sequence.FirstPosition);
            int context = sequence.FirstPosition + sequence.Tokens, blocks = (context + blockSize - 1) / blockSize;
            new ReadOnlySpan<int>(sequence.Blocks, blocks).CopyTo(new Span<int>(Host(Field.BlockTables) + ((long)i * _blocksPerSequence), blocks));
            LongestChunk = Math.Max(LongestChunk, sequence.Tokens);
        }

        TokenRows = tokens;
        PaddedRows = DecodingCount == tokens && batch.LogitRowCount == tokens && Padded(tokens) <= Math.Min(MaxPaddedRows, _maxSequences) ? Padded(tokens) : 0;
        for (int i = tokens; i < PaddedRows; i++)
        {
            Host(Field.Tokens)[i] = 0;
            Host(Field.LogitRows)[i] = i;
            PutSequence(i, i, 0, 0);
            TokenRows++;
        }

        long used = _offsets[^1] + ((long)sequences * _blocksPerSequence);
        stream.CopyToDevice(_device, _host!.Pointer, used * sizeof(int));
        stream.Record(_copied);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _copied?.Dispose();
        _host?.Dispose();
    }

    private void PutSequence(int index, int firstToken, int tokens, int firstPosition)
    {
        Host(Field.FirstToken)[index] = firstToken;
        Host(Field.SequenceTokens)[index] = tokens;
        Host(Field.FirstPosition)[index] = firstPosition;
        if (tokens > 1)
        {
            Host(Field.Prefilling)[PrefillingCount++] = index;
            return;
        }

        int* entry = Host(Field.Decoding) + (EntryNumbers * DecodingCount++);
        (entry[0], entry[1], entry[2], entry[3]) = (index, firstToken, tokens == 0 ? 0 : firstPosition + 1, 0);
        Host(Field.Positions)[firstToken] = -1;
    }

    private int Numbers(Field field) => field switch
    {
        <= Field.LogitRows => _maxTokens,
        Field.Decoding => EntryNumbers * _maxSequences,
        _ => _maxSequences,
    };

    private DevicePointer At(Field field) => _device + ((long)_offsets[(int)field] * sizeof(int));

    private int* Host(Field field) => (int*)_host!.Pointer + _offsets[(int)field];

    private void Host(Field field, int* from, int count)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(count, _maxTokens);
        new ReadOnlySpan<int>(from, count).CopyTo(new Span<int>(Host(field), count));
    }
}
