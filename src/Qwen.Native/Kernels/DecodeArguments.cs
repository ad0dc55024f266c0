using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>The parameters of decode attention, in the order of <see cref="Of"/>.</summary>
internal sealed class DecodeArguments(PtxBuilder k)
{
    /// <summary>Arguments.</summary>
    public const int Count = 16;

    public Global Qkv { get; } = k.Pointer("qkv");

    public Global Attended { get; } = k.Pointer("attended");

    public Global Keys { get; } = k.Pointer("keys");

    public Global Values { get; } = k.Pointer("values");

    public Global KeyScales { get; } = k.Pointer("key_scales");

    public Global ValueScales { get; } = k.Pointer("value_scales");

    public Global Rotations { get; } = k.Pointer("rotations");

    public Global KeyBias { get; } = k.Pointer("key_bias");

    public Global QueryNorm { get; } = k.Pointer("query_norm");

    public Global KeyNorm { get; } = k.Pointer("key_norm");

    public F32 Epsilon { get; } = k.Float("epsilon");

    /// <summary>(sequence, row, length, unused) of each.</summary>
    public Global Sequences { get; } = k.Pointer("sequences");

    public U32 SequenceCount { get; } = k.Number("sequence_count");

    public Global BlockTables { get; } = k.Pointer("block_tables");

    public U32 BlocksPerSequence { get; } = k.Number("blocks_per_sequence");

    public Global Workspace { get; } = k.Pointer("workspace");

    /// <summary>Fills the slots of a launch.</summary>
    public static void Of(
        Span<ulong> slots, DevicePointer qkv, DevicePointer attended, in KvLayerPointers layer, in RotaryPointers rotary, in DecodingSequences sequences,
        DevicePointer workspace)
    {
        ReadOnlySpan<ulong> arguments =
        [
            Argument.Of(qkv), Argument.Of(attended), Argument.Of(layer.Keys), Argument.Of(layer.Values), Argument.Of(layer.KeyScales), Argument.Of(layer.ValueScales),
            Argument.Of(rotary.Rotations), Argument.Of(rotary.KeyBias), Argument.Of(rotary.QueryNorm), Argument.Of(rotary.KeyNorm), Argument.Of(rotary.Epsilon),
            Argument.Of(sequences.Entries), Argument.Of(sequences.Count), Argument.Of(sequences.BlockTables), Argument.Of(sequences.BlocksPerSequence),
            Argument.Of(workspace),
        ];
        arguments.CopyTo(slots);
    }
}

/// <summary>The sequences that decode a token in a step, in device memory that no kernel of the step writes: it is read while the kernel before still runs.</summary>
/// <param name="Entries">S32 [Count][4]: the row of the block tables; the row of qkv; positions, the new one included, or 0 for one that only fills up a batch; unused.</param>
/// <param name="Count">How many.</param>
/// <param name="BlockTables">S32 [sequences, BlocksPerSequence]: the blocks that hold their positions.</param>
/// <param name="BlocksPerSequence">Width of the block tables.</param>
public readonly record struct DecodingSequences(DevicePointer Entries, int Count, DevicePointer BlockTables, int BlocksPerSequence);

/// <summary>What queries and keys of a layer are normed and rotated by.</summary>
/// <param name="Rotations">F32 [positions][headDim / 2][cos, sin]: with a key bias, at least 64 positions.</param>
/// <param name="KeyBias">F32 [kvHeads, headDim], unrotated: of keys that are cached without it.</param>
/// <param name="QueryNorm">F32 [headDim], with norms.</param>
/// <param name="KeyNorm">F32 [headDim], with norms.</param>
/// <param name="Epsilon">Of the norms.</param>
public readonly record struct RotaryPointers(
    DevicePointer Rotations, DevicePointer KeyBias = default, DevicePointer QueryNorm = default, DevicePointer KeyNorm = default, float Epsilon = 0);
