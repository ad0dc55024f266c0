using Qwen.Native.Device;

namespace Qwen.Native.Ptx;

/// <content>
/// Matrix fragments. With g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix fragments for mma"):
/// m16n8k16: A register r holds row g + 8(r &amp; 1), columns 2t + 8(r >> 1) and the next; B register r holds rows 2t + 8r and the next of column g;
/// C and D float r is at row g + 8(r >> 1), column 2t + (r &amp; 1).
/// </content>
public sealed partial class PtxBuilder
{
    /// <summary>sum[16, 8] += a[16, 16] * b[16, 8] of F16 or BF16, in place, sums in F32.</summary>
    /// <param name="kind">F16 or BF16.</param>
    /// <param name="sum">Four registers.</param>
    /// <param name="a">Four registers.</param>
    /// <param name="b">Two registers.</param>
    public void Mma(ElementType kind, ReadOnlySpan<F32> sum, ReadOnlySpan<U32> a, ReadOnlySpan<U32> b) =>
        Line($"mma.sync.aligned.m16n8k16.row.col.f32.{Name(kind)}.{Name(kind)}.f32 {List(sum)}, {List(a)}, {List(b)}, {List(sum)};");

    /// <summary>
    /// Loads 8x8 matrices of 16-bit elements: lane L gives the address of row L % 8 (16 bytes) of matrix L / 8, and gets in register j the elements
    /// (row L / 4, columns 2(L % 4) and the next) of matrix j; transposed, (rows 2(L % 4) and the next, column L / 4).
    /// </summary>
    /// <param name="rows">This lane's row.</param>
    /// <param name="count">Matrices: 1, 2 or 4.</param>
    /// <param name="transposed">Give columns.</param>
    public U32[] LoadMatrix(Shared rows, int count, bool transposed = false)
    {
        var registers = new U32[count];
        for (int i = 0; i < count; i++)
            registers[i] = Variable<U32>();
        Line($"ldmatrix.sync.aligned.m8n8.x{count}{(transposed ? ".trans" : "")}.shared.b16 {{{string.Join(", ", registers.Select(r => r.Operand.Text))}}}, {rows};");
        return registers;
    }

    /// <summary>
    /// The place of a 16-byte chunk in a row of shared memory such that eight consecutive rows of one chunk lie in different banks:
    /// the chunk's number, exclusive-or'd with the row's (rows of 64 bytes: with half the row's).
    /// </summary>
    /// <param name="row">Row.</param>
    /// <param name="chunk">Chunk in the row.</param>
    /// <param name="rowBytes">Bytes of a row: 64, or a multiple of 128.</param>
    /// <returns>Bytes from the start of the row.</returns>
    public static U32 Swizzle(U32 row, U32 chunk, int rowBytes)
    {
        if (rowBytes != 64 && rowBytes % 128 != 0)
            throw new ArgumentOutOfRangeException(nameof(rowBytes), rowBytes, "must be 64 or a multiple of 128.");
        return (chunk ^ (rowBytes == 64 ? (row >> 1) & 3 : row & 7)) * 16;
    }
}
