namespace Qwen.Native.Kernels;

/// <summary>How a block of decode attention shares its work.</summary>
/// <param name="Warps">Warps, each with a tile of its own.</param>
/// <param name="Stages">Tiles of a warp that are on their way, to shared memory; 0 for one, to registers.</param>
public readonly record struct DecodeTiling(int Warps, int Stages)
{
    /// <summary>What the engine uses.</summary>
    public static DecodeTiling Default => new(4, 0);

    /// <inheritdoc/>
    public override string ToString() => $"{Warps}x{Stages}";
}
