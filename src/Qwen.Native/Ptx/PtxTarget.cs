namespace Qwen.Native.Ptx;

/// <summary>What a kernel is built for.</summary>
/// <param name="Sm">Compute capability: 80, 86, 89, 90.</param>
/// <param name="PtxVersion">The newest PTX version that whoever compiles it takes, times ten: 82 for 8.2.</param>
/// <param name="ArchitectureSpecific">Whether features of exactly this architecture may be used (sm_90a: wgmma, setmaxnreg).</param>
public readonly record struct PtxTarget(int Sm, int PtxVersion, bool ArchitectureSpecific = false)
{
    /// <summary>Whether a feature can be used.</summary>
    public bool Has(PtxFeature feature)
    {
        PtxRequirement needed = PtxRequirement.Of(feature);
        return Sm >= needed.Sm && PtxVersion >= needed.PtxVersion && (!needed.ArchitectureSpecific || (ArchitectureSpecific && Sm == needed.Sm));
    }

    /// <inheritdoc/>
    public override string ToString() => $"sm_{Sm}{(ArchitectureSpecific ? "a" : "")}, PTX {PtxVersion / 10}.{PtxVersion % 10}";
}

/// <summary>Instructions that not every target has.</summary>
public enum PtxFeature
{
    /// <summary>What sm_80 has from PTX 7.0 on: cp.async, ldmatrix, mma of 16-bit floats and bytes, fma.bf16x2.</summary>
    Base,

    /// <summary>Loads that say what L1 and L2 shall keep, and how far L2 shall read ahead.</summary>
    CacheHints,

    /// <summary>Arithmetic of bf16x2 besides fma: add, sub, mul.</summary>
    BFloat16Arithmetic,

    /// <summary>cvt between e4m3x2 or e5m2x2 and f16x2 or f32.</summary>
    Float8Conversion,

    /// <summary>mma of e4m3 and e5m2.</summary>
    Float8Mma,

    /// <summary>griddepcontrol: programmatic dependent launch.</summary>
    DependentLaunch,

    /// <summary>stmatrix.</summary>
    StoreMatrix,

    /// <summary>cp.async.bulk and the mbarrier that counts its bytes.</summary>
    BulkCopy,

    /// <summary>wgmma and setmaxnreg.</summary>
    WarpGroupMma,
}

/// <summary>The first target that has a feature (PTX ISA, release notes; checked against ptxas 11.8 and nvPTXCompiler 12.2 as far as those go).</summary>
/// <param name="PtxVersion">PTX version, times ten.</param>
/// <param name="Sm">Compute capability.</param>
/// <param name="ArchitectureSpecific">Of that architecture alone.</param>
public readonly record struct PtxRequirement(int PtxVersion, int Sm, bool ArchitectureSpecific = false)
{
    /// <summary>What a feature requires. Float8Conversion came to sm_90 (7.8) before sm_89 (8.1); the later is taken for both.</summary>
    public static PtxRequirement Of(PtxFeature feature) => feature switch
    {
        PtxFeature.Base => new(70, 80),
        PtxFeature.CacheHints => new(74, 80),
        PtxFeature.BFloat16Arithmetic or PtxFeature.DependentLaunch or PtxFeature.StoreMatrix => new(78, 90),
        PtxFeature.Float8Conversion => new(81, 89),
        PtxFeature.Float8Mma => new(84, 89),
        PtxFeature.BulkCopy => new(80, 90),
        PtxFeature.WarpGroupMma => new(80, 90, true),
        _ => throw new ArgumentOutOfRangeException(nameof(feature), feature, null),
    };
}

/// <summary>A kernel asks for what its target lacks.</summary>
/// <param name="feature">What it asks for.</param>
/// <param name="target">What it is built for.</param>
public sealed class PtxTargetException(PtxFeature feature, PtxTarget target)
    : InvalidOperationException($"{feature} needs PTX {PtxRequirement.Of(feature).PtxVersion / 10.0:0.0} and sm_{PtxRequirement.Of(feature).Sm}{(PtxRequirement.Of(feature).ArchitectureSpecific ? "a" : "")}; the target is {target}.");
