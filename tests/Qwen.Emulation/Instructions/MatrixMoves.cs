using Qwen.Emulation.Execution;
using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Instructions;

/// <summary>
/// <c>ldmatrix</c>, <c>stmatrix</c>, <c>movmatrix</c>: 8 x 8 matrices of 16-bit values. Lane l gives the address of row l % 8 of matrix l / 8; its register j
/// holds columns 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of matrix j, or of column l / 4 if transposed.
/// </summary>
internal static class MatrixMoves
{
    public static Instruction Load(Decoder d)
    {
        (int count, bool transposed) = Modifiers(d);
        d.Expect(2);
        Operand[] to = d.Vector(0);
        if (to.Length != count)
            throw d.Error($"{count} registers are expected.");
        return new LoadMatrices([.. to.Select(o => d.Write(o, PtxType.B32))], d.Addressing(1, StateSpace.Shared), transposed);
    }

    public static Instruction Store(Decoder d)
    {
        (int count, bool transposed) = Modifiers(d);
        d.Expect(2);
        Operand[] from = d.Vector(1);
        if (from.Length != count)
            throw d.Error($"{count} registers are expected.");
        return new StoreMatrices(d.Addressing(0, StateSpace.Shared), [.. from.Select(o => d.Read(o, PtxType.B32))], transposed);
    }

    public static Instruction Transpose(Decoder d)
    {
        if (!d.Take("sync") || !d.Take("aligned") || !d.Take("m8n8") || !d.Take("trans") || !d.Take("b16"))
            throw d.Error("the instruction is movmatrix.sync.aligned.m8n8.trans.b16.");
        d.Expect(2);
        return new TransposeMatrix(d.Write(0, PtxType.B32), d.Read(1, PtxType.B32));
    }

    public static void CheckWhole(Warp warp, uint mask)
    {
        if (mask != uint.MaxValue)
            warp.Fault(FaultKind.InactiveLane, "all lanes of the warp take part in a matrix instruction.", ~mask, null);
    }

    private static (int Count, bool Transposed) Modifiers(Decoder d)
    {
        if (!d.Take("sync") || !d.Take("aligned") || !d.Take("m8n8"))
            throw d.Error("the instruction is .sync.aligned.m8n8.");
        int count = d.TakeAny("x1", "x2", "x4") is { } times ? times[1] - '0' : throw d.Error("the number of matrices is missing.");
        bool transposed = d.Take("trans");
        if (d.TakeAny("shared", "shared::cta") is null || !d.Take("b16"))
            throw d.Error("the matrices are of .b16 in .shared.");
        return (count, transposed);
    }
}

internal sealed unsafe class LoadMatrices(Target[] to, Addressing from, bool transposed) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        MatrixMoves.CheckWhole(warp, mask);
        ulong* addresses = stackalloc ulong[32];
        from.Addresses(warp, mask, addresses);
        from.Count(warp, addresses, to.Length == 4 ? uint.MaxValue : (1U << (8 * to.Length)) - 1, 16, write: false);
        ushort** rows = stackalloc ushort*[8];
        for (int j = 0; j < to.Length; j++)
        {
            for (int i = 0; i < 8; i++)
                rows[i] = (ushort*)from.Read(warp, addresses[(8 * j) + i], 16, (8 * j) + i);
            if (to[j].Offset < 0)
                continue;
            uint* row = (uint*)(warp.Registers + to[j].Offset);
            for (int lane = 0; lane < 32; lane++)
            {
                int at = 2 * (lane & 3), line = lane >> 2;
                row[lane] = transposed ? rows[at][line] | ((uint)rows[at + 1][line] << 16) : *(uint*)(rows[line] + at);
            }

            warp.Written[to[j].Slot] |= mask;
        }
    }
}

internal sealed unsafe class StoreMatrices(Addressing to, Source[] from, bool transposed) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        MatrixMoves.CheckWhole(warp, mask);
        ulong* addresses = stackalloc ulong[32];
        to.Addresses(warp, mask, addresses);
        to.Count(warp, addresses, from.Length == 4 ? uint.MaxValue : (1U << (8 * from.Length)) - 1, 16, write: true);
        ushort** rows = stackalloc ushort*[8];
        for (int j = 0; j < from.Length; j++)
        {
            uint* row = (uint*)warp.Row(from[j], mask);
            for (int i = 0; i < 8; i++)
                rows[i] = (ushort*)to.Write(warp, addresses[(8 * j) + i], 16, (8 * j) + i);
            for (int lane = 0; lane < 32; lane++)
            {
                int at = 2 * (lane & 3), line = lane >> 2;
                if (transposed)
                    (rows[at][line], rows[at + 1][line]) = ((ushort)row[lane], (ushort)(row[lane] >> 16));
                else
                    *(uint*)(rows[line] + at) = row[lane];
            }
        }
    }
}

internal sealed unsafe class TransposeMatrix(Target to, Source from) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        MatrixMoves.CheckWhole(warp, mask);
        uint* row = (uint*)warp.Row(from, mask);
        ushort* matrix = stackalloc ushort[64];
        for (int lane = 0; lane < 32; lane++)
            *(uint*)(matrix + (2 * lane)) = row[lane];
        uint* result = (uint*)(warp.Registers + to.Offset);
        for (int lane = 0; lane < 32; lane++)
            result[lane] = matrix[(16 * (lane & 3)) + (lane >> 2)] | ((uint)matrix[(16 * (lane & 3)) + 8 + (lane >> 2)] << 16);
        warp.Written[to.Slot] |= mask;
    }
}
