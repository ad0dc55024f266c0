using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>Turns words of a <see cref="PackedMatrix"/> into registers for the tensor cores.</summary>
/// <remarks>
/// A code is put into the mantissa of a 16-bit float by one lop3 (after a shift): of 0x6400 in F16, which is 1024, or of 0x4300 in BF16, which
/// is 128, so that the float is the code plus that <see cref="Bias"/>, exactly (the method of IST-DASLab/marlin, after Kim et al.,
/// arXiv 2211.10017). BF16's mantissa holds only 7 bits: of a byte, the upper bit goes to the lowest bit of the exponent of a second 0x4300,
/// inverted, which makes it 128 or 256; the difference is the code less 128.
/// </remarks>
internal readonly struct PackedCodes(PtxBuilder k, ElementType activations, int bits)
{
    /// <summary>Steps of 16 inputs in a tile.</summary>
    public int Steps => 16 / bits;

    /// <summary>What <see cref="Decode"/> adds to every code.</summary>
    public int Bias => activations == ElementType.F16 ? 1024 : bits == 4 ? 128 : -128;

    /// <summary>The two codes of a word for a step, plus <see cref="Bias"/>.</summary>
    public Half2 Decode(U32 word, int step)
    {
        uint one = activations == ElementType.F16 ? 0x64006400u : 0x43004300u;
        U32 fields = word >> (bits * step);
        if (activations == ElementType.F16 || bits == 4)
            return k.Lop3(fields, bits == 4 ? 0x000f000fu : 0x00ff00ffu, one, 0xEA).AsHalf2(activations); // (a & b) | c
        U32 low = k.Lop3(fields, 0x007f007fu, one, 0xEA), high = k.Lop3(fields, 0x00800080u, one, 0xAE); // (~a & b) | c
        return low.AsHalf2(activations) - high.AsHalf2(activations);
    }
}
