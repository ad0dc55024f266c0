namespace Qwen.Native.Ptx;

/// <summary>How the 16-byte chunks of a matrix in shared memory are permuted, so that those of a column lie in different banks. Numbered as in descriptors.</summary>
public enum MatrixSwizzle
{
    /// <summary>Not at all: panels are one chunk wide.</summary>
    None = 0,

    /// <summary>In panels of eight chunks: the one that serves loads and stores of rows best.</summary>
    Bytes128 = 1,

    /// <summary>In panels of four chunks.</summary>
    Bytes64 = 2,

    /// <summary>In panels of two chunks.</summary>
    Bytes32 = 3,
}

/// <summary>
/// A matrix in shared memory as products of warp groups read it (PTX ISA, "wgmma: shared memory matrix layout", the canonical layouts with one panel after the other).
/// Rows are cut into panels as wide as the swizzle; a panel holds its part of all rows, one after the other. In a panel, chunk c of row r, counted in
/// 16 bytes, is at place c ^ (r W / 128 mod W / 16) of the row, W being the panel's width.
/// </summary>
/// <remarks>
/// What a row is to a product, the descriptor says: a row or column of the product with all its depth (A as [64 rows][depth], B as [columns][depth]),
/// or, of 16-bit types, a step of depth with all rows or columns (transposed: A as [depth][64 rows], B as [depth][columns]).
/// </remarks>
/// <param name="Rows">Rows, a multiple of 8.</param>
/// <param name="RowBytes">Bytes of a row, a multiple of the panel's width.</param>
/// <param name="Swizzle">The permutation.</param>
public readonly record struct MatrixLayout(int Rows, int RowBytes, MatrixSwizzle Swizzle = MatrixSwizzle.Bytes128)
{
    /// <summary>Bytes of a row in a panel.</summary>
    public int PanelWidth => Swizzle switch
    {
        MatrixSwizzle.Bytes128 => 128,
        MatrixSwizzle.Bytes64 => 64,
        MatrixSwizzle.Bytes32 => 32,
        _ => 16,
    };

    /// <summary>Bytes of a panel.</summary>
    public int PanelBytes => Rows * PanelWidth;

    /// <summary>Bytes of the matrix.</summary>
    public int Bytes => Rows * RowBytes;

    /// <summary>What the matrix's address must be a multiple of: eight rows of a panel, after which the permutation repeats itself.</summary>
    public int Alignment => 8 * PanelWidth;

    /// <summary>Takes shared memory.</summary>
    public Shared Allocate(PtxBuilder k)
    {
        if (Rows % 8 != 0 || RowBytes % PanelWidth != 0)
            throw new InvalidOperationException($"A matrix has eights of rows of multiples of {PanelWidth} bytes, not {Rows} of {RowBytes}.");
        return k.AllocateShared(Bytes, Alignment);
    }

    /// <summary>Where a 16-byte chunk of a row is: bytes from the start of the matrix.</summary>
    public U32 Offset(U32 row, U32 chunk)
    {
        int chunks = PanelWidth / 16;
        U32 permuted = chunks == 1 ? 0 : (chunk % chunks) ^ ((row / (8 / chunks)) % chunks);
        return (chunk / chunks * PanelBytes) + ((row * PanelWidth) + (permuted * 16));
    }

    /// <summary>What a product is told of the matrix.</summary>
    /// <param name="k">The kernel.</param>
    /// <param name="matrix">Where it is, or where eights of rows further on are. The same in all lanes of a warp group.</param>
    /// <param name="transposed">Whether its rows are steps of depth.</param>
    public MatrixDescriptor Describe(PtxBuilder k, Shared matrix, bool transposed = false)
    {
        // Leading and stride offsets: from a panel to the next, and over eight rows; without a swizzle the other way round where rows are steps of depth.
        (int leading, int stride) = (Swizzle, transposed) switch
        {
            (MatrixSwizzle.None, true) => (Alignment, PanelBytes),
            (MatrixSwizzle.None, false) or (_, true) => (PanelBytes, Alignment),
            _ => (16, Alignment), // one panel holds a step: the leading offset is not used
        };
        U32 low = ((matrix.Base + (uint)matrix.Offset) >> 4) + (uint)(leading >> 4 << 16);
        return new MatrixDescriptor(this, low, (uint)(stride >> 4) | ((uint)Swizzle << 30), transposed);
    }
}

/// <summary>Says where a matrix in shared memory is and how it lies (PTX ISA, "Matrix descriptor format").</summary>
/// <param name="Layout">How it lies.</param>
/// <param name="Low">Sixteenths of its address, and of the leading offset from bit 16 on.</param>
/// <param name="High">Sixteenths of the stride offset, and the swizzle in bits 30 and 31.</param>
/// <param name="IsTransposed">Whether its rows are steps of depth.</param>
public readonly record struct MatrixDescriptor(MatrixLayout Layout, U32 Low, uint High, bool IsTransposed)
{
    /// <summary>The matrix from a step of depth on: steps are of 32 bytes, or of 16 rows if it is transposed.</summary>
    public MatrixDescriptor Step(int step)
    {
        int bytes = IsTransposed ? 16 * step * Layout.PanelWidth : (32 * step / Layout.PanelWidth * Layout.PanelBytes) + (32 * step % Layout.PanelWidth);
        return Further(bytes);
    }

    /// <summary>A matrix that lies so many bytes further on, a multiple of 16: another of the same layout, or eights of rows of this one.</summary>
    public MatrixDescriptor Further(U32 bytes) => this with { Low = Low + (bytes >> 4) };

    /// <summary>A matrix that lies so many bytes further on, a multiple of 16.</summary>
    public MatrixDescriptor Further(int bytes) => this with { Low = Low + (uint)(bytes >> 4) };
}
