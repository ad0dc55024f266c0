using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>The parameters that the attention kernels have in common, in the order of <see cref="Of"/>.</summary>
internal sealed class AttentionArguments(PtxBuilder k)
{
    /// <summary>Arguments in common.</summary>
    public const int Count = 14;

    public Global Qkv { get; } = k.Pointer("qkv");

    public Global Attended { get; } = k.Pointer("attended");

    public Global Keys { get; } = k.Pointer("keys");

    public Global Values { get; } = k.Pointer("values");

    public Global KeyScales { get; } = k.Pointer("key_scales");

    public Global ValueScales { get; } = k.Pointer("value_scales");

    public Global KeyBias { get; } = k.Pointer("key_bias");

    public Global Rotations { get; } = k.Pointer("rotations");

    public Global FirstTokens { get; } = k.Pointer("first_tokens");

    public Global Tokens { get; } = k.Pointer("tokens");

    public Global FirstPositions { get; } = k.Pointer("first_positions");

    public Global BlockTables { get; } = k.Pointer("block_tables");

    public Global Sequences { get; } = k.Pointer("sequences");

    public U32 BlocksPerSequence { get; } = k.Number("blocks_per_sequence");

    /// <summary>Fills the slots of a launch.</summary>
    public static void Of(
        Span<ulong> slots, DevicePointer qkv, DevicePointer attended, in KvLayerPointers layer, in KeyBiasPointers bias, in SequenceTable table, DevicePointer sequences)
    {
        ReadOnlySpan<ulong> arguments =
        [
            Argument.Of(qkv), Argument.Of(attended), Argument.Of(layer.Keys), Argument.Of(layer.Values), Argument.Of(layer.KeyScales), Argument.Of(layer.ValueScales),
            Argument.Of(bias.Bias), Argument.Of(bias.Rotations),
            Argument.Of(table.FirstTokens), Argument.Of(table.Tokens), Argument.Of(table.FirstPositions), Argument.Of(table.BlockTables), Argument.Of(sequences),
            Argument.Of(table.BlocksPerSequence),
        ];
        arguments.CopyTo(slots);
    }
}
