using Qwen.Native.Blas;
using Qwen.Native.Device;
using Qwen.Native.Interop;

namespace Qwen.DeviceCheck.Checks;

/// <summary>Every kind of product that the rules allow, at odd sizes, against sums in double precision; and the rules against the library.</summary>
internal sealed class MatmulCheck : ICheck
{
    private const int Outputs = 272, Inputs = 400; // neither a multiple of 128

    public string Name => "matmul";

    public void Verify(CheckSession session)
    {
        IEnumerable<MatmulShape> shapes = ((int[])[1, 7, 8, 132]).SelectMany(tokens => MatmulShapes.All(tokens, Outputs, Inputs));
        foreach (IGrouping<string, MatmulShape> kind in shapes.Where(s => session.Device.Supports(s)).GroupBy(Kind))
        {
            session.Case(kind.Key, () =>
            {
                double worst = 0;
                foreach (MatmulShape shape in kind)
                    worst = Math.Max(worst, Compare(session, shape));
                session.Measure($"{kind.Key}: error", worst, "of the bound");
            });
        }

        session.Case("alpha, and rows further apart than they are long", () =>
        {
            var shape = new MatmulShape(5, Outputs, Inputs, ElementType.BF16, ElementType.BF16, ElementType.F32, Accumulate: true, ResultStride: Outputs + 16);
            Compare(session, shape, alpha: 0.375f);
        });
        session.Case("sizes that are multiples of nothing", () =>
        {
            foreach (ElementType type in (ElementType[])[ElementType.F32, ElementType.F16, ElementType.BF16])
                Compare(session, new MatmulShape(3, 37, 101, type, type, type, Bias: true));
        });
        session.Case("no managed memory, one result", () =>
        {
            var shape = new MatmulShape(7, 1024, 1024, ElementType.BF16, ElementType.BF16, ElementType.BF16);
            using DeviceBuffer x = session.Upload<byte>(SmallFloats.Random(new Random(1), ElementType.BF16, 7 * 1024).Bytes), w = session.Upload<byte>(SmallFloats.Random(new Random(2), ElementType.BF16, 1024 * 1024).Bytes);
            using DeviceBuffer y = session.Device.Allocate(7 * 1024 * 2);
            using IMatmul matmul = session.Device.CreateMatmul(shape);
            var operands = new MatmulOperands(x.Pointer, w.Pointer, y.Pointer);
            session.Stream.Matmul(matmul, operands);
            byte[] first = session.Download<byte>(y, (int)y.ByteCount);
            long bytes = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 0; i < 100; i++)
                session.Stream.Matmul(matmul, operands);
            CheckSession.Equal(bytes, GC.GetAllocatedBytesForCurrentThread(), "bytes of managed memory");
            CheckSession.True(first.AsSpan().SequenceEqual(session.Download<byte>(y, (int)y.ByteCount)), "the same product gave other bits");
        });
        session.Case("the rules and the library agree", () => CompareRules(session));
    }

    public void Time(CheckSession session)
    {
    }

    private static string Kind(MatmulShape s) =>
        $"{s.Weights} x {s.Activations} -> {s.Result}{(s.WeightScale == MatmulScale.None && s.ActivationScale == MatmulScale.None ? "" : $", {s.WeightScale} x {s.ActivationScale}")}";

    /// <summary>Asks the library for each kind, whatever the rules say. It must have what they promise; what else it has is worth a note.</summary>
    private static void CompareRules(CheckSession session)
    {
        CublasLtApi.Create(out CublasLtHandle library).Check();
        using (library)
        {
            foreach (MatmulShape shape in ((int[])[7, 8]).SelectMany(tokens => MatmulShapes.All(tokens, 256, 384).Concat(MatmulShapes.All(tokens, Outputs, Inputs))))
            {
                bool promised = session.Device.Supports(shape), there;
                try
                {
                    using var matmul = new CublasLtMatmul(library, shape);
                    there = matmul.AskLibrary() is not null;
                }
                catch (CudaException e) when (!e.ContextLost && !promised)
                {
                    there = false;
                }

                if (promised && !there)
                    throw new CheckFailedException($"the library has no algorithm for {shape}");
                if (there && !promised && shape is { Accumulate: false, Bias: false })
                    session.Note($"not promised, but there: {shape}");
            }
        }
    }

    /// <returns>The largest error, as a share of what rounding may give.</returns>
    private static double Compare(CheckSession session, in MatmulShape shape, float alpha = 1)
    {
        int stride = shape.ResultStride == 0 ? shape.Outputs : shape.ResultStride;
        var random = new Random(shape.Tokens + (10 * (int)shape.Weights) + (100 * (int)shape.Result));
        (byte[] x, double[] xs) = SmallFloats.Random(random, shape.Activations, shape.Tokens * shape.Inputs);
        (byte[] w, double[] ws) = SmallFloats.Random(random, shape.Weights, shape.Outputs * shape.Inputs);
        (byte[] y, double[] expected) = SmallFloats.Random(random, shape.Result, shape.Tokens * stride);
        (byte[] bias, double[] biases) = SmallFloats.Random(random, MatmulRules.BiasType(shape), shape.Outputs);
        float[] xScale = Scale(random, shape.ActivationScale, xs, shape.Tokens, shape.Inputs), wScale = Scale(random, shape.WeightScale, ws, shape.Outputs, shape.Inputs);

        using DeviceBuffer px = session.Upload<byte>(x), pw = session.Upload<byte>(w), py = session.Upload<byte>(y), pb = session.Upload<byte>(bias);
        using DeviceBuffer pxs = session.Upload<float>(xScale), pws = session.Upload<float>(wScale);
        using IMatmul matmul = session.Device.CreateMatmul(shape);
        session.Stream.Matmul(matmul, new MatmulOperands(
            px.Pointer, pw.Pointer, py.Pointer, shape.Bias ? pb.Pointer : default, shape.ActivationScale == MatmulScale.None ? default : pxs.Pointer,
            shape.WeightScale == MatmulScale.None ? default : pws.Pointer, alpha));
        double[] actual = SmallFloats.Decode(shape.Result, session.Download<byte>(py, y.Length));

        // A result of 16 bits is rounded where the sum is, and again where something is added to it: seen of cublasLt 13.1.
        bool isAddedTo = shape.Accumulate || shape.Bias;

        // Tensor cores drop low bits of their sums; those of FP8 on 9.0 keep 14 (arXiv 2412.19437, 3.3.2).
        double sumError = shape.Weights == ElementType.E4M3 ? 1.0 / 4096 : 1e-5;
        double rounding = shape.Result switch { ElementType.BF16 => 1.0 / 256, ElementType.F16 => 1.0 / 2048, _ => 1e-6 };
        double worst = 0;
        for (int t = 0; t < shape.Tokens; t++)
        {
            for (int o = 0; o < stride; o++)
            {
                double sum = 0, size = 0, before = expected[(t * stride) + o], got = actual[(t * stride) + o];
                if (o >= shape.Outputs)
                {
                    CheckSession.Equal(before, got, $"{shape}: what lies between rows, y[{t}, {o}],");
                    continue;
                }

                for (int i = 0; i < shape.Inputs; i++)
                {
                    double term = xs[(t * shape.Inputs) + i] * ws[(o * shape.Inputs) + i];
                    sum += term;
                    size += Math.Abs(term);
                }

                double wanted = (alpha * sum) + (shape.Accumulate ? before : 0) + (shape.Bias ? biases[o] : 0);
                double bound = (sumError * size) + (rounding * (Math.Abs(wanted) + (isAddedTo ? Math.Abs(alpha * sum) + Math.Abs(wanted - before) + Math.Abs(before) : 0)));
                double error = Math.Abs(got - wanted) / bound;
                CheckSession.True(error <= 1, $"{shape}: y[{t}, {o}] is {got}, not {wanted} (bound {bound:E2})");
                worst = Math.Max(worst, error);
            }
        }

        return worst;
    }

    /// <summary>Makes scales in the layout of the kind, and multiplies the values by them.</summary>
    private static float[] Scale(Random random, MatmulScale kind, double[] values, int rows, int columns)
    {
        int rowBlocks = (rows + 127) / 128, columnBlocks = (columns + 127) / 128, paddedRows = (rows + 3) & ~3, paddedBlocks = (columnBlocks + 3) & ~3;
        int count = kind switch
        {
            MatmulScale.Row => rows,
            MatmulScale.RowGroup128 => columnBlocks * paddedRows,
            MatmulScale.Block128 => rowBlocks * paddedBlocks,
            _ => 1,
        };
        float[] scales = [.. Enumerable.Range(0, count).Select(_ => 0.25f + random.NextSingle())];
        for (int r = 0; r < rows; r++)
        {
            for (int c = 0; c < columns; c++)
            {
                values[(r * columns) + c] *= kind switch
                {
                    MatmulScale.None => 1,
                    MatmulScale.Tensor => scales[0],
                    MatmulScale.Row => scales[r],
                    MatmulScale.RowGroup128 => scales[((c / 128) * paddedRows) + r],
                    _ => scales[((r / 128) * paddedBlocks) + (c / 128)],
                };
            }
        }

        return scales;
    }
}
