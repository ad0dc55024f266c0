using Qwen.Native.Device;
using Qwen.Native.Ptx;
using Qwen.Native.Tests.Kernels;

namespace Qwen.Native.Tests.Ptx;

/// <summary>One form of product of a warp group.</summary>
/// <param name="Kind">F16, BF16, E4M3 or E5M2.</param>
/// <param name="Columns">N.</param>
/// <param name="Steps">Products one after the other, each a step of depth.</param>
/// <param name="Swizzle">Of matrices in shared memory.</param>
/// <param name="IsTransposed">Whether B's rows are steps of depth.</param>
/// <param name="FromRegisters">Whether A is in registers.</param>
/// <param name="IsATransposed">Whether A's rows are steps of depth.</param>
internal sealed record WarpGroupForm(
    ElementType Kind, int Columns, int Steps, MatrixSwizzle Swizzle = MatrixSwizzle.Bytes128, bool IsTransposed = false, bool FromRegisters = false, bool IsATransposed = false)
{
    /// <summary>Every class of forms that the emitter writes.</summary>
    public static IEnumerable<WarpGroupForm> All { get; } =
    [
        .. from swizzle in Enum.GetValues<MatrixSwizzle>()
           from transposed in (bool[])[false, true]
           from registers in (bool[])[false, true]
           select new WarpGroupForm(ElementType.BF16, 64, 8, swizzle, transposed, registers),
        .. from swizzle in Enum.GetValues<MatrixSwizzle>()
           select new WarpGroupForm(ElementType.BF16, 64, 8, swizzle, IsTransposed: true, IsATransposed: true),
        .. from columns in (int[])[8, 24, 40, 96, 128, 176, 256]
           select new WarpGroupForm(ElementType.BF16, columns, 4),
        .. from columns in (int[])[128, 192]
           from registers in (bool[])[false, true]
           select new WarpGroupForm(ElementType.BF16, columns, 4, IsTransposed: true, FromRegisters: registers),
        .. from columns in (int[])[16, 48, 96] // narrower panels serve numbers of columns that are no multiples of 64
           select new WarpGroupForm(ElementType.BF16, columns, 4, columns == 96 ? MatrixSwizzle.Bytes64 : MatrixSwizzle.Bytes32, IsTransposed: true),
        .. from transposed in (bool[])[false, true]
           from registers in (bool[])[false, true]
           select new WarpGroupForm(ElementType.F16, 128, 8, IsTransposed: transposed, FromRegisters: registers),
        .. from kind in (ElementType[])[ElementType.E4M3, ElementType.E5M2]
           from swizzle in Enum.GetValues<MatrixSwizzle>()
           select new WarpGroupForm(kind, kind == ElementType.E4M3 ? 128 : 40, 8, swizzle, FromRegisters: swizzle is MatrixSwizzle.None or MatrixSwizzle.Bytes128),
    ];

    /// <summary>In a line.</summary>
    public string Describe() =>
        $"{Kind} m64n{Columns}, A {(FromRegisters ? "in registers" : IsATransposed ? "transposed" : "in rows")}, B {(IsTransposed ? "transposed" : "in rows")}, swizzle {Swizzle}, {Steps} steps";

    private int Depth => Steps * 32 / Kind.Bytes();

    private MatrixLayout LayoutA => new(IsATransposed ? Depth : 64, (IsATransposed ? 64 : Depth) * Kind.Bytes(), Swizzle);

    private MatrixLayout LayoutB => new(IsTransposed ? Depth : Columns, (IsTransposed ? Columns : Depth) * Kind.Bytes(), Swizzle);

    /// <summary>One block: F32 [64, N], A [64, depth] times B [N, depth] (transposed: [depth, 64] and [depth, N]), and A's first step times B's last once more.</summary>
    public PtxKernel Build(PtxTarget target)
    {
        var k = new PtxBuilder(target, $"wgmma_{PtxBuilder.Name(Kind)}_{Columns}_{Steps}_{Swizzle}{(IsTransposed ? "_transposed" : "")}{(FromRegisters ? "_registers" : "")}{(IsATransposed ? "_a" : "")}".ToLowerInvariant(), 128);
        (Global a, Global b, Global sums) = (k.Pointer("a"), k.Pointer("b"), k.Pointer("sums"));
        (MatrixLayout layoutA, MatrixLayout layoutB) = (LayoutA, LayoutB);
        (Shared inA, Shared inB) = (layoutA.Allocate(k), layoutB.Allocate(k));
        Store(layoutA, inA, a);
        Store(layoutB, inB, b);
        F32[] sum = [.. Enumerable.Range(0, Columns / 2).Select(_ => k.Variable<F32>())];
        U32 row = (k.Warp * 16) + (k.Lane >> 2), t = k.Lane & 3;
        int chunks = Depth * Kind.Bytes() / 16;
        // A's registers of a step: rows g and g + 8, four bytes at t of each of two chunks.
        U32[][] registers = FromRegisters
            ? [.. Enumerable.Range(0, Steps).Select(step => (U32[])[.. from chunk in (int[])[0, 1] from half in (int[])[0, 8] select k.Load<U32>(a.At(row + half, chunks * 16).At(t, 4) + (((2 * step) + chunk) * 16))])]
            : [];
        k.FenceAsyncProxy();
        k.Barrier();
        MatrixDescriptor ofA = layoutA.Describe(k, inA, IsATransposed), ofB = layoutB.Describe(k, inB, IsTransposed);
        k.FenceProducts();
        for (int step = 0; step < Steps; step++)
            Product(step, step, accumulate: step > 0);
        k.CommitProducts();
        Product(0, Steps - 1, accumulate: true); // another group, with the same sums
        k.CommitProducts();
        k.WaitForProducts(0);
        for (int r = 0; r < sum.Length; r++)
            k.Store(sums.At(row + (8 * ((r >> 1) & 1)), Columns * sizeof(float)).At(t, 2 * sizeof(float)) + (((8 * (r >> 2)) + (r & 1)) * sizeof(float)), sum[r]);
        return k.Build();

        void Store(MatrixLayout layout, Shared to, Global from)
        {
            using (k.For(k.Thread, layout.Bytes / 16, k.Threads, out U32 i))
            {
                U32 perRow = layout.RowBytes / 16;
                k.StoreVector<U32>(to + layout.Offset(i / perRow, i % perRow), k.LoadVector<U32>(from.At(i, 16), 4));
            }
        }

        void Product(int stepOfA, int stepOfB, bool accumulate)
        {
            if (registers.Length > 0)
                k.Product(Kind, sum, registers[stepOfA], ofB.Step(stepOfB), accumulate);
            else
                k.Product(Kind, sum, ofA.Step(stepOfA), ofB.Step(stepOfB), accumulate);
        }
    }

    /// <summary>Runs it on random values and compares with plain loops: what is wrong, or null.</summary>
    public unsafe string? Difference(IDevice device, IDeviceStream stream, int seed)
    {
        var random = new Random(seed);
        int depth = Depth, columns = Columns;
        (byte[] bytesOfA, _, double[] a) = Values.Quantize(Kind, [.. Enumerable.Range(0, 64 * depth).Select(_ => (random.NextSingle() * 4) - 2)], depth);
        (byte[] bytesOfB, _, double[] b) = Values.Quantize(Kind, [.. Enumerable.Range(0, columns * depth).Select(_ => (random.NextSingle() * 4) - 2)], depth);
        using DeviceBuffer inA = device.Allocate(bytesOfA.Length), inB = device.Allocate(bytesOfB.Length), sums = device.Allocate(64 * columns * sizeof(float));
        PtxKernel kernel = Build(new PtxTarget(device.Info.ComputeCapability, device.Info.PtxVersion, ArchitectureSpecific: true));
        using IDeviceModule module = device.LoadModule(kernel.Text);
        var actual = new float[64 * columns];
        fixed (byte* fromA = bytesOfA, fromB = bytesOfB)
        fixed (float* to = actual)
        {
            stream.CopyToDevice(inA.Pointer, fromA, bytesOfA.Length);
            stream.CopyToDevice(inB.Pointer, fromB, bytesOfB.Length);
            stream.Launch(module.Function(kernel.Name, kernel.DynamicSharedBytes), 1, 128, [Argument.Of(inA.Pointer), Argument.Of(inB.Pointer), Argument.Of(sums.Pointer)]);
            stream.CopyToHost(to, sums.Pointer, sums.ByteCount);
            stream.Synchronize();
        }

        int step = depth / Steps;
        for (int row = 0; row < 64; row++)
        {
            for (int column = 0; column < columns; column++)
            {
                (double expected, double size) = (0, 0);
                for (int k = 0; k < depth + step; k++)
                {
                    double product = A(row, k < depth ? k : k - depth) * B(column, k < depth ? k : k - step);
                    (expected, size) = (expected + product, size + Math.Abs(product));
                }

                // Tensor cores align products before they add them: of bytes to fewer bits than F32 has.
                if (!(Math.Abs(actual[(row * columns) + column] - expected) <= size * (Kind.Bytes() == 1 ? 1e-3 : 1e-5)))
                    return $"{this}, seed {seed}: row {row}, column {column} is {actual[(row * columns) + column]:g7}, not {expected:g7}";
            }
        }

        return null;

        double A(int row, int k) => IsATransposed ? a[(k * 64) + row] : a[(row * depth) + k];
        double B(int column, int k) => IsTransposed ? b[(k * columns) + column] : b[(column * depth) + k];
    }
}
