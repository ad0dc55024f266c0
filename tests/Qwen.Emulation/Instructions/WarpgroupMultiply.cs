using System.Numerics;
using System.Runtime.Intrinsics;
using Qwen.Emulation.Execution;
using Qwen.Emulation.Numbers;
using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Instructions;

/// <summary>
/// <c>wgmma.mma_async</c>: D[64, N] = A[64, K] B[K, N] (+ D) of f16, bf16, e4m3, e5m2, with sums in F32, by four warps, each of which has 16 rows.
/// </summary>
/// <remarks>
/// With g = lane / 4, t = lane % 4 and e values a register, register r of A holds row g + 8 (r % 2), steps e t + 4 e (r / 2) on; register r of D row
/// g + 8 (r / 2 % 2), column 8 (r / 4) + 2 t + r % 2. The product is computed when it is waited for, as late as the rules allow.
/// Products are exact; they are added one by one, K upwards, each sum rounded to F32 (hardware sums in another order and truncates).
/// </remarks>
internal sealed unsafe class WarpgroupMultiply(ProductRow[] d, ProductRow[] a, Source descriptorA, Source descriptorB, PredicateSource adds, PtxType typeA, PtxType typeB, bool mnMajorA, bool mnMajorB) : Instruction
{
    private int Columns => d.Length * 2;

    private int Depth => 256 / typeA.Bits;

    public static Instruction Decode(Decoder d)
    {
        string kind = d.TakeAny("mma_async", "fence", "commit_group", "wait_group") ?? throw d.Error("only .mma_async, .fence, .commit_group and .wait_group are known.");
        if (!d.Take("sync") || !d.Take("aligned"))
            throw d.Error("the instruction is .sync.aligned.");
        switch (kind)
        {
            case "mma_async":
                return Product(d);
            case "wait_group":
                d.Expect(1);
                return new ProductWait(d.Number(0) is <= 7 and var pending ? (int)pending : throw d.Error("at most 7 groups can be left."));
            default:
                d.Expect(0);
                return kind == "fence" ? new ProductFence() : new ProductCommit();
        }
    }

    /// <summary><c>setmaxnreg</c>: how many each warp is left with is added up when the block has ended.</summary>
    public static Instruction SetRegisters(Decoder d)
    {
        string? direction = d.TakeAny("inc", "dec");
        if (direction is null || !d.Take("sync") || !d.Take("aligned") || !d.Take("u32"))
            throw d.Error("the instruction is setmaxnreg.inc or .dec.sync.aligned.u32.");
        d.Expect(1);
        return d.Number(0) is >= 24 and <= 256 and var count && count % 8 == 0 ? new RegisterCount((int)count, direction == "inc") : throw d.Error("registers are a multiple of 8 from 24 to 256.");
    }

    public override void Execute(Warp warp, uint mask)
    {
        MatrixMoves.CheckWhole(warp, mask);
        if ((warp.Index | 3) >= warp.Block.WarpCount)
            warp.Fault(FaultKind.Misuse, "a warp group is four warps, the first of which is a multiple of four.", mask, null);
        uint add = warp.Predicate(adds, mask);
        if (add != 0 && add != uint.MaxValue)
            warp.Fault(FaultKind.Misuse, "lanes disagree whether sums are added to.", mask, null);
        ulong ofA = a.Length > 0 ? 0 : Uniform(warp, descriptorA), ofB = Uniform(warp, descriptorB);
        Pending pending = new(this, ofA, ofB, add != 0);
        if (a.Length == 0)
            new MatrixDescriptor(warp, ofA, mnMajorA, typeA.Bits / 8).Check();
        new MatrixDescriptor(warp, ofB, mnMajorB, typeB.Bits / 8).Check();
        warp.Products.Issue(pending, d, a);

        // What it reads must be there from now on until the product is waited for, which reads it again.
        float* values = stackalloc float[256 * 32];
        if (a.Length == 0)
            Load(warp, ofA, mnMajorA, typeA, 16 * (warp.Index & 3), 16, values);
        Load(warp, ofB, mnMajorB, typeB, 0, Columns, values);
    }

    /// <summary>Computes the warp's rows, from registers of A as they were at the start.</summary>
    public void Complete(Warp warp, in Pending pending)
    {
        int columns = Columns, depth = Depth;
        float* left = stackalloc float[16 * 32];
        float* right = stackalloc float[256 * 32];
        float* sums = stackalloc float[16 * 256];
        if (a.Length == 0)
        {
            Load(warp, pending.DescriptorA, mnMajorA, typeA, 16 * (warp.Index & 3), 16, right);
            for (int k = 0; k < depth; k++)
            {
                for (int row = 0; row < 16; row++)
                    left[(row * depth) + k] = right[(k * 16) + row];
            }
        }
        else
        {
            int each = 32 / typeA.Bits;
            for (int r = 0; r < 4; r++)
            {
                for (int lane = 0; lane < 32; lane++)
                {
                    for (int i = 0; i < each; i++)
                        left[(((lane >> 2) + (8 * (r & 1))) * depth) + (each * (lane & 3)) + (4 * each * (r >> 1)) + i] = Value(typeA, pending.A[(r * 32) + lane] >> (typeA.Bits * i));
                }
            }
        }

        Load(warp, pending.DescriptorB, mnMajorB, typeB, 0, columns, right);
        for (int r = 0; r < d.Length; r++)
        {
            float* row = (float*)(warp.Registers + d[r].Row.Offset);
            for (int lane = 0; lane < 32; lane++)
                sums[Place(r, lane, columns)] = pending.Adds ? row[lane] : 0;
        }

        for (int row = 0; row < 16; row++)
        {
            for (int column = 0; column < columns; column += 8)
            {
                Vector256<float> sum = Vector256.Load(sums + (row * columns) + column);
                for (int k = 0; k < depth; k++)
                    sum = Vector256.FusedMultiplyAdd(Vector256.Create(left[(row * depth) + k]), Vector256.Load(right + (k * columns) + column), sum);
                Vector256.Store(sum, sums + (row * columns) + column);
            }
        }

        for (int r = 0; r < d.Length; r++)
        {
            float* row = (float*)(warp.Registers + d[r].Row.Offset);
            for (int lane = 0; lane < 32; lane++)
                row[lane] = sums[Place(r, lane, columns)];
        }

        warp.Products.Completed(pending, d, a);
    }

    private static int Place(int r, int lane, int columns) => (((lane >> 2) + (8 * (r >> 1 & 1))) * columns) + (8 * (r >> 2)) + (2 * (lane & 3)) + (r & 1);

    private static WarpgroupMultiply Product(Decoder d)
    {
        string shape = d.Instruction.Opcode.Split('.').FirstOrDefault(m => m.StartsWith("m64n", StringComparison.Ordinal)) ?? throw d.Error("the shape is not known.");
        d.Take(shape);
        if (shape[4..].Split('k') is not [var n, var k] || !int.TryParse(n, out int columns) || !int.TryParse(k, out int depth) || columns % 8 != 0 || columns is < 8 or > 256)
            throw d.Error("the columns are a multiple of 8 from 8 to 256.");
        if (!d.Take("f32"))
            throw d.Error("only sums in .f32 are known.");
        string a = d.TakeAny("f16", "bf16", "e4m3", "e5m2") ?? throw d.Error("the type of A is not known here.");
        string b = d.TakeAny("f16", "bf16", "e4m3", "e5m2") ?? throw d.Error("the type of B is not known here.");
        PtxType typeA = Type(a), typeB = Type(b);
        if (typeA.Bits != typeB.Bits || (typeA.Bits == 16 && a != b) || depth * typeA.Bits != 256)
            throw d.Error("the combination of shape and types is not known.");
        bool registers = d.At(1) is VectorOperand;
        int transposes = typeA.Bits == 8 ? 0 : registers ? 1 : 2;
        d.Expect(6 + transposes);
        Operand[] sums = d.Vector(0), left = registers ? d.Vector(1) : [];
        if (sums.Length != columns / 2 || (registers && left.Length != 4))
            throw d.Error($"{columns / 2} registers of sums are expected, and four of A.");
        if (d.Number(4) != 1 || d.Number(5) != 1)
            throw d.Error("only factors of 1 are known.");
        bool Transposed(int operand) => d.Number(operand) is <= 1 and var flag ? flag == 1 : throw d.Error("a transposition is 0 or 1.");
        return new WarpgroupMultiply(
            [.. sums.Select(Sum)], [.. left.Select(o => d.Layout.Product(d.Read(o, PtxType.B32)))],
            registers ? d.Layout.Zero : d.Read(1, PtxType.B64), d.Read(2, PtxType.B64), d.ReadPredicate(3), typeA, typeB,
            transposes == 2 && Transposed(6), transposes > 0 && Transposed(5 + transposes));

        ProductRow Sum(Operand operand) => d.Write(operand, PtxType.Find("f32")!.Value) is { Offset: >= 0 } row ? d.Layout.Product(new Source(row.Offset, row.Slot, row.Bits)) : throw d.Error("sums need registers.");

        static PtxType Type(string name) => PtxType.Find(name) ?? new PtxType(TypeKind.Float, 8, name);
    }

    private static ulong Uniform(Warp warp, Source source)
    {
        warp.Row(source, uint.MaxValue);
        ulong value = warp.Lane(source, 0);
        for (int lane = 1; lane < 32; lane++)
        {
            if (warp.Lane(source, lane) != value)
                warp.FaultAt(FaultKind.Misuse, "lanes have different matrix descriptors.", lane, null);
        }

        return value;
    }

    /// <summary>Rows or columns of a matrix, from <paramref name="from"/> on, as floats: values[step of depth, row or column].</summary>
    private static void Load(Warp warp, ulong descriptor, bool mnMajor, PtxType type, int from, int count, float* values)
    {
        MatrixDescriptor matrix = new(warp, descriptor, mnMajor, type.Bits / 8);
        int each = 128 / type.Bits, depth = 256 / type.Bits;
        for (int line = 0; line < (mnMajor ? depth : count); line++)
        {
            for (int chunk = 0; chunk < (mnMajor ? count : depth); chunk += each)
            {
                byte* place = mnMajor ? matrix.Read(from + chunk, line) : matrix.Read(from + line, chunk);
                for (int i = 0; i < each; i++)
                {
                    uint bits = type.Bits == 16 ? ((ushort*)place)[i] : place[i];
                    values[mnMajor ? (line * count) + chunk + i : ((chunk + i) * count) + line] = Value(type, bits);
                }
            }
        }
    }

    private static float Value(PtxType type, uint bits) => type.Name switch
    {
        "f16" => (float)BitConverter.UInt16BitsToHalf((ushort)bits),
        "bf16" => BitConverter.UInt32BitsToSingle(bits << 16),
        "e4m3" => Float8.E4M3.Values[(int)(bits & 0xff)],
        _ => Float8.E5M2.Values[(int)(bits & 0xff)],
    };

    /// <summary>A product under way.</summary>
    /// <param name="Instruction">What it is.</param>
    /// <param name="DescriptorA">Where A is, if it is in shared memory.</param>
    /// <param name="DescriptorB">Where B is.</param>
    /// <param name="Adds">Whether it adds to the sums.</param>
    internal sealed record Pending(WarpgroupMultiply Instruction, ulong DescriptorA, ulong DescriptorB, bool Adds)
    {
        /// <summary>A, if it is in registers: as they were at the start.</summary>
        public uint[] A { get; set; } = [];

        public int Group { get; set; }

        /// <summary>Whether another warp of the group issued the same.</summary>
        public bool IsLike(Pending other) => Instruction == other.Instruction && DescriptorA == other.DescriptorA && DescriptorB == other.DescriptorB && Adds == other.Adds;
    }

    /// <summary>
    /// A 64-bit matrix descriptor, by the PTX ISA's "Matrix descriptor format", "Strides" and "Canonical layouts": bits 0-13 the address, 16-29 the leading and 32-45 the stride
    /// offset, all in sixteens of bytes, 49-51 the base offset, 62-63 the swizzle. The swizzle exchanges address bits 4 to 6 by bits 7 to 9.
    /// </summary>
    private readonly struct MatrixDescriptor(Warp warp, ulong bits, bool mnMajor, int elementBytes)
    {
        private readonly uint _start = (uint)(bits & 0x3fff) << 4, _leading = (uint)(bits >> 16 & 0x3fff) << 4, _stride = (uint)(bits >> 32 & 0x3fff) << 4;

        // Chunks of 16 bytes in a row of the pattern.
        private readonly uint _chunks = (bits >> 62) switch { 0 => 1, 1 => 8, 2 => 4, _ => 2 };

        public void Check()
        {
            const ulong Reserved = 0x3ff1_c000_c000_c000;
            if ((bits & Reserved) != 0)
                warp.Fault(FaultKind.Misuse, $"the matrix descriptor 0x{bits:x16} has reserved bits.", 1, null);
            if ((bits >> 49 & 7) != 0)
                warp.Fault(FaultKind.Misuse, "base offsets of matrix descriptors are not known here.", 1, null);
            if (_chunks > 1 && _start % (_chunks * 128) >= _chunks * 16)
                warp.Fault(FaultKind.Misaligned, $"the matrix does not begin in the first row of a pattern of {_chunks * 128} bytes.", 1, _start);
        }

        /// <summary>The 16 bytes that begin with an element.</summary>
        public byte* Read(int mn, int k)
        {
            uint each = 16 / (uint)elementBytes, x = (uint)mn, y = (uint)k, at;
            if (mnMajor)
                at = _chunks == 1 ? (x / each * _stride) + (y % 8 * 16) + (y / 8 * _leading) : (x / (each * _chunks) * _leading) + (x % (each * _chunks) / each * 16) + (y % 8 * 16 * _chunks) + (y / 8 * _stride);
            else
                at = (x / 8 * _stride) + (x % 8 * 16 * _chunks) + (_chunks == 1 ? y / each * _leading : y / each * 16);
            uint address = _start + at;
            return warp.Block.Shared.ReadAsync(warp, address ^ ((address >> 7 & (_chunks - 1)) << 4));
        }
    }
}

/// <summary><c>setmaxnreg</c>.</summary>
internal sealed class RegisterCount(int count, bool more) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        MatrixMoves.CheckWhole(warp, mask);
        if (warp.MaxRegisters == 0)
            warp.Fault(FaultKind.Misuse, "setmaxnreg needs .maxntid and .minnctapersm, or the assembler leaves it out.", 0, null);
        if (more ? count < warp.MaxRegisters : count > warp.MaxRegisters)
            warp.Fault(FaultKind.Misuse, $"the warp has {warp.MaxRegisters} registers a thread.", 0, null);
        warp.MaxRegisters = count;
    }
}

/// <summary><c>wgmma.fence</c>.</summary>
internal sealed class ProductFence : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        MatrixMoves.CheckWhole(warp, mask);
        warp.Products.Fence();
    }
}

/// <summary><c>wgmma.commit_group</c>.</summary>
internal sealed class ProductCommit : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        MatrixMoves.CheckWhole(warp, mask);
        warp.Products.Commit();
    }
}

/// <summary><c>wgmma.wait_group</c>.</summary>
internal sealed class ProductWait(int pending) : Instruction
{
    public override void Execute(Warp warp, uint mask)
    {
        MatrixMoves.CheckWhole(warp, mask);
        warp.Products.Wait(pending);
    }
}
