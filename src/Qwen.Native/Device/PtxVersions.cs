namespace Qwen.Native.Device;

/// <summary>Which PTX a driver compiles (PTX ISA manual, "Release Notes").</summary>
internal static class PtxVersions
{
    // CUDA version as the driver writes it, and the PTX version that came with it, newest first. A newer driver compiles at least the first.
    private static readonly (int Cuda, int Ptx)[] Releases =
    [
        (13000, 90), (12090, 88), (12080, 87), (12070, 86), (12050, 85), (12040, 84), (12030, 83), (12020, 82), (12010, 81), (12000, 80),
        (11080, 78), (11070, 77), (11060, 76), (11050, 75), (11040, 74), (11030, 73), (11020, 72), (11010, 71), (11000, 70),
    ];

    /// <summary>The newest PTX version of a driver, times ten; 0 for one older than PTX 7.0, which sm_80 needs.</summary>
    /// <param name="driverVersion">cuDriverGetVersion's number: 12040 for 12.4.</param>
    public static int Of(int driverVersion) => Releases.FirstOrDefault(r => r.Cuda <= driverVersion).Ptx;
}
