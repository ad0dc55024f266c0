using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace Qwen.Cpu;

/// <summary>The 16 lanes in which the integer kernels sum sub-blocks.</summary>
internal static class Lanes
{
    public const int Count = 16;

    /// <summary>The sum of the lanes in the one order of this engine: halves are added until one is left (l + 8, l + 4, l + 2, l + 1).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Fold(Vector512<float> v)
    {
        Vector256<float> eight = v.GetLower() + v.GetUpper();
        return Lanes128.Fold(eight.GetLower() + eight.GetUpper());
    }
}
