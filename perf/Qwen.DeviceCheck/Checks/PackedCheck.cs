using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.DeviceCheck.Checks;

/// <summary>Products with 4- and 8-bit weights against plain sums, then beside the dense library at the layers of a 7B model.</summary>
internal sealed class PackedCheck : ICheck
{
    private const long LeastBytes = 160 << 20; // of a layer's weights, copies in turn: more than the L2 cache holds

    private static readonly (string Name, int Outputs, int Inputs)[] _layers =
        [("qkv", 4608, 3584), ("output", 3584, 3584), ("gate and up", 37888, 3584), ("down", 3584, 18944)];

    public string Name => "packed";

    public void Verify(CheckSession session)
    {
        using var cache = new KernelCache(session.Device);
        using DeviceBuffer workspace = Workspace(session);
        foreach (PackedFormat format in (PackedFormat[])
            [
                new(4, 128, PackedOffset.ZeroPoint), new(4, 32, PackedOffset.None), new(4, 32, PackedOffset.Minimum), new(4, PackedFormat.WholeRow, PackedOffset.None),
                new(8, 32, PackedOffset.None), new(8, 128, PackedOffset.ZeroPoint),
            ])
        {
            foreach (ElementType type in (ElementType[])[ElementType.BF16, ElementType.F16])
            {
                var product = new PackedProduct(format, type, ElementType.F32);
                session.Case(product.ToString(), () =>
                {
                    var matrix = new PackedMatrix(1000, 3584, format);
                    var weights = new RandomWeights(matrix);
                    byte[] packed = matrix.Pack(weights);
                    var dense = new float[matrix.Outputs * matrix.Inputs];
                    matrix.Unpack(packed, dense);
                    using DeviceBuffer w = session.Upload<byte>(packed);
                    foreach (int rows in (int[])[1, 3, 8, 16, 50, 130])
                    {
                        (float[] x, ushort[] bits) = Activations(rows * matrix.Inputs, type);
                        using DeviceBuffer xs = session.Upload<ushort>(bits), y = session.Device.Allocate((long)rows * matrix.Outputs * sizeof(float));
                        Action[] launches = rows <= PackedGemvKernel.MostRows ? [Gemv(new(1, 8, 6, 3)), Gemv(new(2, 4, 4, 5)), Gemm()] : [Gemm()];
                        foreach (Action launch in launches)
                        {
                            session.Stream.Fill(y.Pointer, 0xff, y.ByteCount);
                            launch();
                            Compare(dense, x, session.Download<float>(y, rows * matrix.Outputs), matrix, rows);
                        }

                        Action Gemv(GemvTiling tiling) => () => new PackedGemvKernel(cache, product, tiling with { Slots = format.Bits == 4 ? tiling.Slots : 3 }).Launch(session.Stream, matrix, w.Pointer, xs.Pointer, default, y.Pointer, rows);

                        Action Gemm() => () =>
                            new PackedGemmKernel(cache, product, PackedGemmKernel.TilingFor(cache.Target, matrix, rows, session.Device.Info.Multiprocessors)).Launch(session.Stream, matrix, w.Pointer, xs.Pointer, default, y.Pointer, rows, workspace.Pointer);
                    }
                });
            }
        }
    }

    public void Time(CheckSession session)
    {
        using var cache = new KernelCache(session.Device);
        using DeviceBuffer workspace = Workspace(session);
        foreach (PackedFormat format in (PackedFormat[])[new(4, 128, PackedOffset.ZeroPoint), new(4, 32, PackedOffset.None), new(8, 32, PackedOffset.None)])
        {
            foreach ((string layer, int outputs, int inputs) in _layers)
            {
                var matrix = new PackedMatrix(outputs, inputs, format);
                int copies = (int)(LeastBytes / matrix.ByteCount) + 1;
                using DeviceBuffer w = session.Device.Allocate(copies * matrix.ByteCount), dense = session.Device.Allocate(2L * outputs * inputs);
                session.Stream.Fill(w.Pointer, 0x11, w.ByteCount);
                session.Stream.Fill(dense.Pointer, 0x11, dense.ByteCount);
                foreach (int rows in (int[])[1, 4, 8, 16, 32, 64, 128])
                {
                    var product = new PackedProduct(format, ElementType.BF16, ElementType.BF16, Gated: outputs == 37888);
                    using DeviceBuffer x = session.Device.Allocate(2L * rows * inputs), y = session.Device.Allocate(2L * rows * outputs);
                    session.Stream.Fill(x.Pointer, 0, x.ByteCount);
                    PackedGemvKernel? gemv = rows <= PackedGemvKernel.MostRows ? new(cache, product, matrix) : null;
                    PackedGemmKernel? gemm = rows <= PackedGemvKernel.MostRows ? null : new(cache, product, PackedGemmKernel.TilingFor(cache.Target, matrix, rows, session.Device.Info.Multiprocessors));
                    using IDeviceGraph graph = Capture(session, copies, copy =>
                    {
                        DevicePointer at = w.Pointer + (copy * matrix.ByteCount);
                        gemv?.Launch(session.Stream, matrix, at, x.Pointer, default, y.Pointer, rows);
                        gemm?.Launch(session.Stream, matrix, at, x.Pointer, default, y.Pointer, rows, workspace.Pointer);
                    });
                    double seconds = session.Seconds(() => session.Stream.Launch(graph)) / Repeats;
                    string name = $"{format} {layer}, {rows} rows";
                    session.Measure(name, matrix.ByteCount / seconds / 1e9, "GB/s", session.CopyBandwidth / 1e9);
                    if (format != new PackedFormat(4, 128, PackedOffset.ZeroPoint))
                        continue;
                    using IMatmul matmul = session.Device.CreateMatmul(new MatmulShape(rows, outputs, inputs, ElementType.BF16, ElementType.BF16, ElementType.BF16));
                    var operands = new MatmulOperands(x.Pointer, dense.Pointer, y.Pointer);
                    session.Stream.Matmul(matmul, operands);
                    session.Stream.Synchronize();
                    using IDeviceGraph library = Capture(session, 1, _ => session.Stream.Matmul(matmul, operands));
                    double denseSeconds = session.Seconds(() => session.Stream.Launch(library)) / Repeats;
                    session.Measure($"{name}: {seconds * 1e6:0.0} us, BF16 {denseSeconds * 1e6:0.0} us, so faster by", denseSeconds / seconds, "x");
                }
            }
        }
    }

    private const int Repeats = 30;

    private static DeviceBuffer Workspace(CheckSession session)
    {
        DeviceBuffer workspace = session.Device.Allocate(64 << 20);
        session.Stream.Fill(workspace.Pointer, 0, workspace.ByteCount);
        return workspace;
    }

    private static IDeviceGraph Capture(CheckSession session, int copies, Action<int> launch)
    {
        launch(0); // modules load lazily, not while a capture runs
        session.Stream.Synchronize();
        session.Stream.BeginCapture();
        for (int i = 0; i < Repeats; i++)
            launch(i % copies);
        return session.Stream.EndCapture();
    }

    private static (float[] Values, ushort[] Bits) Activations(int count, ElementType type)
    {
        var random = new Random(count);
        var (values, bits) = (new float[count], new ushort[count]);
        for (int i = 0; i < count; i++)
        {
            float value = (random.NextSingle() * 2) - 1;
            bits[i] = type == ElementType.F16 ? BitConverter.HalfToUInt16Bits((Half)value) : (ushort)(BitConverter.SingleToUInt32Bits(value) >> 16);
            values[i] = type == ElementType.F16 ? (float)BitConverter.UInt16BitsToHalf(bits[i]) : BitConverter.UInt32BitsToSingle((uint)bits[i] << 16);
        }

        return (values, bits);
    }

    /// <summary>Every seventh output of every row. F32 sums in another order, codes with biases in them: 2^-13 of the sum's own size is far beyond both.</summary>
    private static void Compare(float[] weights, float[] x, float[] y, PackedMatrix matrix, int rows)
    {
        for (int row = 0; row < rows; row++)
        {
            for (int output = row % 7; output < matrix.Outputs; output += 7)
            {
                double sum = 0, squares = 0;
                for (int i = 0; i < matrix.Inputs; i++)
                {
                    double term = (double)weights[(output * matrix.Inputs) + i] * x[(row * matrix.Inputs) + i];
                    (sum, squares) = (sum + term, squares + (term * term));
                }

                float got = y[(row * matrix.Outputs) + output];
                CheckSession.True(Math.Abs(got - sum) <= Math.ScaleB(Math.Sqrt(squares), -10), $"{rows} rows: y[{row}, {output}] is {got}, not {sum}");
            }
        }
    }

    private sealed class RandomWeights(PackedMatrix matrix) : IPackedSource
    {
        public void Read(int firstRow, int rows, Span<byte> codes, Span<float> scales, Span<float> offsets)
        {
            var random = new Random(firstRow);
            random.NextBytes(codes);
            if (matrix.Format.Bits == 4)
            {
                foreach (ref byte code in codes)
                    code &= 15;
            }

            foreach (ref float scale in scales)
                scale = (float)(Half)(random.NextSingle() * 0.01f);
            foreach (ref float offset in offsets)
                offset = matrix.Format.Offset == PackedOffset.ZeroPoint ? random.Next(1 << matrix.Format.Bits) : (float)(Half)(random.NextSingle() * -0.1f);
        }
    }
}
