namespace Qwen.Cpu.Quantized;

/// <summary>How the codes of a panel lie: always 64 bytes for 16 rows and 2 or 4 columns.</summary>
internal enum PanelCodes
{
    /// <summary>4 columns of signed bytes, less the offset, and what sums of their products with activations plus 128 begin with.</summary>
    Signed,

    /// <summary>4 columns of codes as they are.</summary>
    Unsigned,

    /// <summary>int16 less the offset: the even, then the odd ones of 4 columns.</summary>
    Words,
}

/// <summary>The products of a panel with four tokens: what differs by the instructions that a machine has.</summary>
/// <remarks>Implementations are empty structs: the members fold into the kernels as constants.</remarks>
internal unsafe interface IPanelTile
{
    /// <summary>Bytes that a sub-block asks for, whatever the step.</summary>
    const int AheadBytes = 256;

    /// <summary>How it wants the codes of a format.</summary>
    static abstract PanelCodes Codes<TFormat>()
        where TFormat : struct, IQuantizedFormat;

    /// <summary>Adds the dots of a panel with four tokens to their sums [16 sub-blocks, 4 tokens, 16 rows]; the records past the last token are padding.</summary>
    /// <param name="panel">Sixteen rows.</param>
    /// <param name="count">Its sub-blocks.</param>
    /// <param name="x">Activations.</param>
    /// <param name="token">The first of the four.</param>
    /// <param name="first">The panel's first sub-block in the row: a multiple of 16; with 0 the sums begin.</param>
    /// <param name="sums">Aligned to 64 bytes.</param>
    /// <param name="ahead">What will be read soon.</param>
    /// <param name="step">How much of it, up to <see cref="AheadBytes"/>, each sub-block asks for: memory answers while products are formed.</param>
    static abstract void Multiply<TFormat>(in Panel panel, int count, in QuantizedActivations x, int token, int first, float* sums, byte* ahead, int step)
        where TFormat : struct, IQuantizedFormat;
}
