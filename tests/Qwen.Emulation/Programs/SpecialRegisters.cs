using Qwen.Emulation.Execution;

namespace Qwen.Emulation.Programs;

/// <summary>The registers whose values a thread finds (PTX ISA, chapter 10), but for the clocks, which an instruction of their own reads.</summary>
internal static class SpecialRegisters
{
    public static bool IsKnown(string name) => name is "%tid.x" or "%tid.y" or "%tid.z" or "%ntid.x" or "%ntid.y" or "%ntid.z" or "%ctaid.x" or "%ctaid.y"
        or "%ctaid.z" or "%nctaid.x" or "%nctaid.y" or "%nctaid.z" or "%laneid" or "%warpid" or "%nwarpid" or "%smid" or "%nsmid" or "%gridid"
        or "%lanemask_eq" or "%lanemask_lt" or "%lanemask_le" or "%lanemask_gt" or "%lanemask_ge" or "%dynamic_smem_size" or "%total_smem_size";

    public static int Bits(string name) => name == "%gridid" ? 64 : 32;

    /// <summary>Whether the lanes of a warp have different values, and these only by the block's size.</summary>
    public static bool IsOfLane(string name) => name.StartsWith("%tid", StringComparison.Ordinal) || name.StartsWith("%lane", StringComparison.Ordinal);

    public static ulong Value(string name, Warp warp, int lane)
    {
        Block block = warp.Block;
        LaunchContext launch = block.Launch;
        int thread = Math.Min((warp.Index * 32) + lane, (int)launch.BlockSize.Count - 1);
        return name switch
        {
            "%tid.x" => (ulong)(thread % launch.BlockSize.X),
            "%tid.y" => (ulong)(thread / launch.BlockSize.X % launch.BlockSize.Y),
            "%tid.z" => (ulong)(thread / launch.BlockSize.X / launch.BlockSize.Y),
            "%ntid.x" => (ulong)launch.BlockSize.X,
            "%ntid.y" => (ulong)launch.BlockSize.Y,
            "%ntid.z" => (ulong)launch.BlockSize.Z,
            "%ctaid.x" => (ulong)block.Index.X,
            "%ctaid.y" => (ulong)block.Index.Y,
            "%ctaid.z" => (ulong)block.Index.Z,
            "%nctaid.x" => (ulong)launch.GridSize.X,
            "%nctaid.y" => (ulong)launch.GridSize.Y,
            "%nctaid.z" => (ulong)launch.GridSize.Z,
            "%laneid" => (ulong)lane,
            "%warpid" => (ulong)warp.Index,
            "%nwarpid" => (ulong)block.WarpCount,
            "%smid" => (ulong)(block.Number % launch.Multiprocessors),
            "%nsmid" => (ulong)launch.Multiprocessors,
            "%gridid" => (ulong)launch.Serial,
            "%lanemask_eq" => 1UL << lane,
            "%lanemask_lt" => (1UL << lane) - 1,
            "%lanemask_le" => (2UL << lane) - 1,
            "%lanemask_gt" => 0xffffffffUL & ~((2UL << lane) - 1),
            "%lanemask_ge" => 0xffffffffUL & ~((1UL << lane) - 1),
            "%dynamic_smem_size" => (ulong)launch.DynamicSharedBytes,
            "%total_smem_size" => (ulong)block.Shared.Bytes,
            _ => throw new ArgumentOutOfRangeException(nameof(name), name, null),
        };
    }
}
