namespace Qwen.Cpu.Tests;

/// <summary>The instruction-set levels at which every float kernel is tested; those that the machine lacks are skipped.</summary>
public enum Isa
{
    Portable,
    Avx2,
    Avx512,
}

internal static class IsaLevels
{
    public static void SkipUnlessSupported(this Isa isa) => Skip.IfNot(
        isa switch { Isa.Avx512 => Lanes512.IsSupported, Isa.Avx2 => Lanes256.IsSupported, _ => true },
        $"This machine, or this run's DOTNET_Enable* settings, has no {isa}.");
}
