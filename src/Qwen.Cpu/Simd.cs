using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Qwen.Cpu;

/// <summary>The vector instructions the kernels run on here.</summary>
public static class Simd
{
    /// <summary>Their name, for people.</summary>
    public static string Name =>
        Avx512F.IsSupported ? Avx512Vbmi.IsSupported ? "AVX-512 VBMI" : "AVX-512"
        : Avx2.IsSupported ? "AVX2"
        : Vector128.IsHardwareAccelerated ? "Vector128" : "scalar";
}
