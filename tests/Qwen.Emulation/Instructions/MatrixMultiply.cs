using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using Qwen.Emulation.Execution;
using Qwen.Emulation.Numbers;
using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;

namespace Qwen.Emulation.Instructions;

/// <summary>
/// <c>mma.sync</c> m16n8: D[16, 8] = A[16, K] B[K, 8] + C[16, 8], of f16, bf16, tf32, e4m3, e5m2 (sums in F32, or rounded to F16 at the end), s8 and u8.
/// </summary>
/// <remarks>
/// With g = lane / 4, t = lane % 4 and e values a register, register r of A holds row g + 8 (r % 2), columns e t + 4 e (r / 2) on; register r of B
/// rows e t + 4 e r on of column g; register r of C and D row g + 8 (r / 2), column 2 t + r % 2 (a pair of F16: row g + 8 r, columns 2 t, 2 t + 1).
/// Products are exact; they are added to C one by one, k upwards, each sum rounded to F32 (hardware sums in another order and truncates).
/// </remarks>
internal sealed unsafe class MatrixMultiply(Target[] d, Source[] a, Source[] b, Source[] c, int depth, PtxType typeA, PtxType typeB, PtxType typeC, PtxType typeD) : Instruction
{
    public static Instruction Decode(Decoder d)
    {
        if (!d.Take("sync") || !d.Take("aligned"))
            throw d.Error("the product is .sync.aligned.");
        int depth = d.TakeAny("m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32") is { } shape ? int.Parse(shape.AsSpan(6)) : throw d.Error("the shape is not known.");
        if (!d.Take("row") || !d.Take("col"))
            throw d.Error("the layouts are .row.col.");
        bool finite = d.Take("satfinite");

        // e4m3 alone is no register type: only products have it.
        List<PtxType> types = [];
        foreach (string part in d.Instruction.Opcode.Split('.')[1..])
        {
            if (part is "e4m3" or "e5m2" ? d.Take(part) : PtxType.Find(part) is not null && d.Take(part))
                types.Add(PtxType.Find(part) ?? new PtxType(TypeKind.Float, 8, part));
        }

        d.Expect(4);
        if (types is not [var typeD, var typeA, var typeB, var typeC])
            throw d.Error("the product needs four types.");
        int[] depths = typeA.Name switch
        {
            "f16" or "bf16" => [8, 16],
            "tf32" => [4, 8],
            "e4m3" or "e5m2" => [16, 32],
            "s8" or "u8" => [16, 32],
            _ => throw d.Error($"the type .{typeA.Name} is not known here."),
        };
        bool integers = typeA.Kind != TypeKind.Float;
        bool fits = depths.Contains(depth) && typeA.Bits == typeB.Bits && (typeA.Bits == 8 || typeA.Name == typeB.Name) && typeB.Kind == TypeKind.Float != integers
            && typeC.Name == typeD.Name && (integers ? typeC.Name == "s32" : typeC.Name == "f32" || (typeC.Name == "f16" && typeA.Name is "f16" or "e4m3" or "e5m2" && typeC.Name == "f16"));
        if (!fits || finite)
            throw d.Error("the combination of shape and types is not known.");
        int countA = 16 * depth * typeA.Bits / 1024, countB = 8 * depth * typeA.Bits / 1024, countC = typeC.Bits == 16 ? 2 : 4;
        PtxType typeOut = typeC.Bits == 16 ? PtxType.B32 : typeC;
        return new MatrixMultiply(
            [.. Vector(d, 0, countC).Select(o => d.Write(o, typeOut))], [.. Vector(d, 1, countA).Select(o => d.Read(o, PtxType.B32))],
            [.. Vector(d, 2, countB).Select(o => d.Read(o, PtxType.B32))], [.. Vector(d, 3, countC).Select(o => d.Read(o, typeOut))], depth, typeA, typeB, typeC, typeD);
    }

    public override void Execute(Warp warp, uint mask)
    {
        MatrixMoves.CheckWhole(warp, mask);
        float* left = stackalloc float[16 * 32];
        float* right = stackalloc float[32 * 8];
        float* sums = stackalloc float[16 * 8];
        float* values = stackalloc float[32 * 4];
        int each = 32 / typeA.Bits;
        for (int r = 0; r < a.Length; r++)
        {
            Unpack((uint*)warp.Row(a[r], mask), typeA, values);
            float* corner = left + (8 * (r & 1) * depth) + (4 * each * (r >> 1));
            for (int i = 0; i < each; i++)
            {
                for (int lane = 0; lane < 32; lane++)
                    corner[((lane >> 2) * depth) + (each * (lane & 3)) + i] = values[(i * 32) + lane];
            }
        }

        for (int r = 0; r < b.Length; r++)
        {
            Unpack((uint*)warp.Row(b[r], mask), typeB, values);
            float* corner = right + (4 * each * r * 8);
            for (int i = 0; i < each; i++)
            {
                for (int lane = 0; lane < 32; lane++)
                    corner[(((each * (lane & 3)) + i) * 8) + (lane >> 2)] = values[(i * 32) + lane];
            }
        }

        bool integers = typeC.Kind != TypeKind.Float;
        for (int r = 0; r < c.Length; r++)
        {
            uint* row = (uint*)warp.Row(c[r], mask);
            for (int lane = 0; lane < 32; lane++)
            {
                if (typeC.Bits == 16)
                {
                    float* pair = sums + (((lane >> 2) + (8 * r)) * 8) + (2 * (lane & 3));
                    pair[0] = (float)BitConverter.UInt16BitsToHalf((ushort)row[lane]);
                    pair[1] = (float)BitConverter.UInt16BitsToHalf((ushort)(row[lane] >> 16));
                }
                else
                {
                    sums[(((lane >> 2) + (8 * (r >> 1))) * 8) + (2 * (lane & 3)) + (r & 1)] = BitConverter.UInt32BitsToSingle(row[lane]);
                }
            }
        }

        if (integers)
            MultiplyIntegers(left, right, (int*)sums);
        else
            MultiplyFloats(left, right, sums);

        for (int r = 0; r < d.Length; r++)
        {
            if (d[r].Offset < 0)
                continue;
            uint* row = (uint*)(warp.Registers + d[r].Offset);
            for (int lane = 0; lane < 32; lane++)
            {
                if (typeD.Bits == 16)
                {
                    float* pair = sums + (((lane >> 2) + (8 * r)) * 8) + (2 * (lane & 3));
                    row[lane] = BitConverter.HalfToUInt16Bits((System.Half)pair[0]) | ((uint)BitConverter.HalfToUInt16Bits((System.Half)pair[1]) << 16);
                }
                else
                {
                    row[lane] = BitConverter.SingleToUInt32Bits(sums[(((lane >> 2) + (8 * (r >> 1))) * 8) + (2 * (lane & 3)) + (r & 1)]);
                }
            }

            warp.Written[d[r].Slot] |= mask;
        }
    }

    private void MultiplyIntegers(float* left, float* right, int* sums)
    {
        for (int row = 0; row < 16; row++)
        {
            // Products of 8-bit integers are exact as floats.
            Vector256<int> total = Vector256.Load(sums + (row * 8));
            for (int k = 0; k < depth; k++)
                total += Vector256.ConvertToInt32(Vector256.Create(left[(row * depth) + k]) * Vector256.Load(right + (k * 8)));
            Vector256.Store(total, sums + (row * 8));
        }
    }

    /// <summary>Eight rows at a time: one alone would wait for each of its sums.</summary>
    private void MultiplyFloats(float* left, float* right, float* sums)
    {
        for (int row = 0; row < 16; row += 8, left += 8 * depth, sums += 64)
        {
            Vector256<float> s0 = Vector256.Load(sums), s1 = Vector256.Load(sums + 8), s2 = Vector256.Load(sums + 16), s3 = Vector256.Load(sums + 24);
            Vector256<float> s4 = Vector256.Load(sums + 32), s5 = Vector256.Load(sums + 40), s6 = Vector256.Load(sums + 48), s7 = Vector256.Load(sums + 56);
            for (int k = 0; k < depth; k++)
            {
                Vector256<float> line = Vector256.Load(right + (k * 8));
                float* column = left + k;
                s0 = Vector256.FusedMultiplyAdd(Vector256.Create(column[0]), line, s0);
                s1 = Vector256.FusedMultiplyAdd(Vector256.Create(column[depth]), line, s1);
                s2 = Vector256.FusedMultiplyAdd(Vector256.Create(column[2 * depth]), line, s2);
                s3 = Vector256.FusedMultiplyAdd(Vector256.Create(column[3 * depth]), line, s3);
                s4 = Vector256.FusedMultiplyAdd(Vector256.Create(column[4 * depth]), line, s4);
                s5 = Vector256.FusedMultiplyAdd(Vector256.Create(column[5 * depth]), line, s5);
                s6 = Vector256.FusedMultiplyAdd(Vector256.Create(column[6 * depth]), line, s6);
                s7 = Vector256.FusedMultiplyAdd(Vector256.Create(column[7 * depth]), line, s7);
            }

            Vector256.Store(s0, sums);
            Vector256.Store(s1, sums + 8);
            Vector256.Store(s2, sums + 16);
            Vector256.Store(s3, sums + 24);
            Vector256.Store(s4, sums + 32);
            Vector256.Store(s5, sums + 40);
            Vector256.Store(s6, sums + 48);
            Vector256.Store(s7, sums + 56);
        }
    }

    private static Operand[] Vector(Decoder d, int operand, int count)
    {
        Operand[] items = d.Vector(operand);
        return items.Length == count ? items : throw d.Error($"operand {operand + 1} has {items.Length} registers instead of {count}.");
    }

    /// <summary>The values in a register of each lane: value i of lane l at [32 i + l].</summary>
    private static void Unpack(uint* row, PtxType type, float* values)
    {
        ReadOnlySpan<float> table = type.Name switch
        {
            "e4m3" => Float8.E4M3.Values,
            "e5m2" => Float8.E5M2.Values,
            _ => default,
        };
        for (int i = 0; i < 32; i += 16)
        {
            Vector512<uint> codes = Vector512.Load(row + i);
            switch (type.Name)
            {
                case "f16":
                    Vector512.Store(F16.Widen(codes), values + i);
                    Vector512.Store(F16.Widen(Vector512.ShiftRightLogical(codes, 16)), values + 32 + i);
                    break;
                case "bf16":
                    Vector512.Store(BF16.Widen(codes), values + i);
                    Vector512.Store((codes & Vector512.Create(0xffff0000u)).AsSingle(), values + 32 + i);
                    break;
                case "tf32":
                    Vector512.Store((codes & Vector512.Create(0xffffe000u)).AsSingle(), values + i);
                    break;
                case "s8":
                    for (int p = 0; p < 4; p++)
                        Vector512.Store(Vector512.ConvertToSingle(Vector512.ShiftRightArithmetic(Vector512.ShiftLeft(codes, 24 - (8 * p)).AsInt32(), 24)), values + (32 * p) + i);
                    break;
                case "u8":
                    for (int p = 0; p < 4; p++)
                        Vector512.Store(Vector512.ConvertToSingle((Vector512.ShiftRightLogical(codes, 8 * p) & Vector512.Create(0xffu)).AsInt32()), values + (32 * p) + i);
                    break;
                default:
                    ref float first = ref MemoryMarshal.GetReference(table);
                    for (int lane = i; lane < i + 16; lane++)
                    {
                        for (int p = 0; p < 4; p++)
                            values[(32 * p) + lane] = System.Runtime.CompilerServices.Unsafe.Add(ref first, (int)(row[lane] >> (8 * p) & 0xff));
                    }

                    break;
            }
        }
    }
}
