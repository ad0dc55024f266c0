using Qwen.Native.Device;

namespace Qwen.Native.Ptx;

/// <content>
/// Products of warp groups, four warps from a multiple of four on, that run beside other instructions (PTX ISA, "Asynchronous warpgroup-level matrix instructions").
/// All threads of the group issue them alike. With w the warp in its group, g = lane / 4 and t = lane % 4: sum float r is at row 16w + g + 8(r >> 1 &amp; 1),
/// column 8(r >> 2) + 2t + (r &amp; 1): warp w's C fragments of mma, side by side. A in registers is warp w's A fragment of mma (m16n8k16, or k32 of bytes).
/// <para>
/// The order of things: matrices are stored (<see cref="MatrixLayout"/>); each thread that stored makes that seen by <see cref="FenceAsyncProxy"/>; a barrier; registers of sums and
/// of A are set; <see cref="FenceProducts"/>; products; <see cref="CommitProducts"/>; <see cref="WaitForProducts"/>. Before that nothing may touch the registers of sums
/// and of A, nor write the matrices. Products with the same sums follow each other without a fence.
/// </para>
/// </content>
public sealed partial class PtxBuilder
{
    /// <summary>What threads did with registers of sums and of A comes before the products that follow.</summary>
    public void FenceProducts()
    {
        Require(PtxFeature.WarpGroupMma);
        Line("wgmma.fence.sync.aligned;");
    }

    /// <summary>Ends a group of products.</summary>
    public void CommitProducts()
    {
        Require(PtxFeature.WarpGroupMma);
        Line("wgmma.commit_group.sync.aligned;");
    }

    /// <summary>Waits until at most <paramref name="pending"/> of the newest groups are under way.</summary>
    public void WaitForProducts(int pending)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)pending, 7u);
        Require(PtxFeature.WarpGroupMma);
        Line($"wgmma.wait_group.sync.aligned {pending};");
    }

    /// <summary>sum[64, N] (+)= a[64, K] * b[K, N] of F16, BF16 (K is 16), E4M3 or E5M2 (32, not transposed), both in shared memory; sums in F32.</summary>
    /// <param name="kind">The type of both.</param>
    /// <param name="sum">N / 2 registers; N is a multiple of 8 from 8 to 256.</param>
    /// <param name="a">64 rows.</param>
    /// <param name="b">N columns.</param>
    /// <param name="accumulate">Whether what the sums were before is added.</param>
    public void Product(ElementType kind, ReadOnlySpan<F32> sum, in MatrixDescriptor a, in MatrixDescriptor b, bool accumulate = true) =>
        Product(kind, sum, Joined(a), b, accumulate, kind.Bytes() == 2 ? $", {(a.IsTransposed ? 1 : 0)}" : a.IsTransposed ? throw new ArgumentOutOfRangeException(nameof(a)) : "");

    /// <summary>sum[64, N] (+)= a[64, K] * b[K, N], a in registers.</summary>
    /// <param name="kind">The type of both.</param>
    /// <param name="sum">N / 2 registers; N is a multiple of 8 from 8 to 256.</param>
    /// <param name="a">Four registers.</param>
    /// <param name="b">N columns.</param>
    /// <param name="accumulate">Whether what the sums were before is added.</param>
    public void Product(ElementType kind, ReadOnlySpan<F32> sum, ReadOnlySpan<U32> a, in MatrixDescriptor b, bool accumulate = true)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(a.Length, 4);
        Product(kind, sum, List(a), b, accumulate, "");
    }

    /// <summary>
    /// Gives registers of a warp group back, or waits for them to come free and takes them: so many a thread, a multiple of 8 from 24 to 256. The kernel must be
    /// built for so many blocks a multiprocessor, and each warp group must get here once, in a branch of its own. All together may take what the block began with:
    /// a multiprocessor's 65536 over its threads, rounded down to a multiple of 8 a thread. With more, some wait for ever.
    /// </summary>
    public void SetRegisters(int count, bool more)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(count % 8, 0);
        Require(PtxFeature.WarpGroupMma);
        Line($"setmaxnreg.{(more ? "inc" : "dec")}.sync.aligned.u32 {count};");
    }

    private void Product(ElementType kind, ReadOnlySpan<F32> sum, string a, in MatrixDescriptor b, bool accumulate, string transposedA)
    {
        int columns = 2 * sum.Length;
        if (columns % 8 != 0 || columns is < 8 or > 256)
            throw new ArgumentOutOfRangeException(nameof(sum), sum.Length, "Sums are of 8, 16, ... or 256 columns, half as many registers.");
        if (kind.Bytes() == 1 && b.IsTransposed)
            throw new ArgumentOutOfRangeException(nameof(b), "Bytes are not transposed.");
        Require(PtxFeature.WarpGroupMma);
        string transposed = kind.Bytes() == 2 ? $"{transposedA}, {(b.IsTransposed ? 1 : 0)}" : "";
        Line($"wgmma.mma_async.sync.aligned.m64n{columns}k{32 / kind.Bytes()}.f32.{Name(kind)}.{Name(kind)} {List(sum)}, {a}, {Joined(b)}, {(accumulate ? 1 : 0)}, 1, 1{transposed};");
    }

    private string Joined(in MatrixDescriptor matrix) => Join(matrix.Low, Variable<U32>(matrix.High)).Operand.Text;
}
