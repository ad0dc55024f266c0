using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>What, besides its scale, a group of codes carries.</summary>
public enum PackedOffset
{
    /// <summary>Nothing: w = scale * (code - middle), middle being 8 or 128 (GPTQ's symmetric form, Q4_0, Q8_0).</summary>
    None,

    /// <summary>A whole number: w = scale * (code - offset) (AWQ, GPTQ).</summary>
    ZeroPoint,

    /// <summary>Any number: w = scale * code + offset (Q4_1, Q4_K).</summary>
    Minimum,
}

/// <summary>How the weights of a <see cref="PackedMatrix"/> are quantized. Scales and offsets are F16.</summary>
/// <param name="Bits">Of a code: 4 or 8.</param>
/// <param name="GroupSize">Inputs of a group: 32, 64, 128, or <see cref="WholeRow"/>.</param>
/// <param name="Offset">What a group carries besides its scale.</param>
public readonly record struct PackedFormat(int Bits, int GroupSize, PackedOffset Offset)
{
    /// <summary>One group a row.</summary>
    public const int WholeRow = -1;

    /// <summary>Inputs of a tile: what 16 bytes a lane hold for 16 outputs, 64 or 32.</summary>
    public int TileInputs => 256 / Bits;

    /// <summary>The code that stands for zero where groups have no offset.</summary>
    public int Middle => 1 << (Bits - 1);

    /// <summary>Groups in a tile: 2 for groups of 32 in tiles of 64, else 1.</summary>
    internal int SegmentsOfTile => GroupSize == WholeRow ? 1 : Math.Max(1, TileInputs / GroupSize);

    /// <summary>Tiles that share a group; 1 where a group is within a tile.</summary>
    internal int TilesOfGroup => Math.Max(1, GroupSize / TileInputs);

    /// <summary>Bytes of the scales, and the offsets if any, of a group of 16 outputs.</summary>
    internal int GroupBytes => Offset == PackedOffset.None ? 32 : 64;

    /// <summary>Refuses what no kernel computes.</summary>
    /// <exception cref="ArgumentOutOfRangeException">Bits or group size are not among those listed.</exception>
    public void Check()
    {
        if (Bits is not (4 or 8))
            throw new ArgumentOutOfRangeException(nameof(Bits), Bits, "must be 4 or 8.");
        if (GroupSize is not (32 or 64 or 128 or WholeRow))
            throw new ArgumentOutOfRangeException(nameof(GroupSize), GroupSize, "must be 32, 64, 128, or -1 for the whole row.");
        if (Offset is < PackedOffset.None or > PackedOffset.Minimum)
            throw new ArgumentOutOfRangeException(nameof(Offset), Offset, null);
    }

    /// <summary>For names of kernels: w4g128, w4g128_zero, w8row_min.</summary>
    public override string ToString() =>
        $"w{Bits}{(GroupSize == WholeRow ? "row" : $"g{GroupSize}")}{Offset switch { PackedOffset.ZeroPoint => "_zero", PackedOffset.Minimum => "_min", _ => "" }}";
}

/// <summary>A product y = W x with packed weights, as kernels are built for it.</summary>
/// <param name="Format">Of W.</param>
/// <param name="Activations">Type of x: F16 or BF16.</param>
/// <param name="Result">Type of y: that of x, or F32.</param>
/// <param name="Accumulate">y += W x; y is F32.</param>
/// <param name="Bias">Add an F32 bias to every output.</param>
/// <param name="Gated">W is a gate and an up projection, one above the other, and y[o] = SiLU(gate[o]) * up[o]. Of few rows only.</param>
/// <param name="Norm">What it does of an RMS norm. Of few rows only.</param>
public readonly record struct PackedProduct(PackedFormat Format, ElementType Activations, ElementType Result, bool Accumulate = false, bool Bias = false, bool Gated = false, FusedNorm Norm = FusedNorm.None)
{
    /// <summary>Refuses what no kernel computes.</summary>
    public void Check()
    {
        Format.Check();
        if (Activations is not (ElementType.F16 or ElementType.BF16))
            throw new ArgumentOutOfRangeException(nameof(Activations), Activations, "must be F16 or BF16.");
        if (Result != Activations && Result != ElementType.F32)
            throw new ArgumentOutOfRangeException(nameof(Result), Result, $"must be {Activations} or F32.");
        if (Accumulate && Result != ElementType.F32)
            throw new ArgumentOutOfRangeException(nameof(Accumulate), Accumulate, "sums are kept in F32.");
        if (Norm == FusedNorm.OfResult && (Result != ElementType.F32 || Gated))
            throw new ArgumentOutOfRangeException(nameof(Norm), Norm, "the hidden state is F32, and not gated.");
    }

    /// <summary>For names of kernels.</summary>
    public override string ToString() =>
        $"{Format}_{PtxBuilder.Name(Activations)}_{PtxBuilder.Name(Result)}{(Accumulate ? "_add" : "")}{(Bias ? "_bias" : "")}{(Gated ? "_gated" : "")}{Norm switch { FusedNorm.OfInput => "_normed", FusedNorm.OfResult => "_norm", _ => "" }}";
}
