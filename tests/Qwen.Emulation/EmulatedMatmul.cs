using System.Runtime.Intrinsics;
using Qwen.Emulation.Memory;
using Qwen.Emulation.Numbers;
using Qwen.Native.Blas;
using Qwen.Native.Device;

namespace Qwen.Emulation;

/// <summary>y[t, o] = alpha * sum over i of x[t, i] w[o, i], scaled: values are widened to F32, products summed in F32, y rounded once.</summary>
internal sealed unsafe class EmulatedMatmul(EmulatedDevice device, MatmulShape shape) : IMatmul
{
    private const int Group = 128;
    private bool _isDisposed;

    public MatmulShape Shape { get; } = shape;

    public void Run(in MatmulOperands operands)
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        MatmulShape s = Shape;
        int stride = s.ResultStride == 0 ? s.Outputs : s.ResultStride;
        if (MatmulRules.WhyNot(s, operands) is { } reason)
            throw new DeviceException($"Matrix product {s}: {reason}.");
        GlobalMemory memory = device.Memory;
        byte* x = memory.Read(operands.X, (long)s.Tokens * s.Inputs * s.Activations.Bytes(), "Matrix product, x");
        byte* w = memory.Read(operands.W, (long)s.Outputs * s.Inputs * s.Weights.Bytes(), "Matrix product, w");
        ElementType biasType = MatmulRules.BiasType(s);
        byte* bias = s.Bias ? memory.Read(operands.Bias, (long)s.Outputs * biasType.Bytes(), "Matrix product, bias") : null;
        float* xScale = (float*)Scales(operands.XScale, s.ActivationScale, s.Tokens, "Matrix product, scales of x");
        float* wScale = (float*)Scales(operands.WScale, s.WeightScale, s.Outputs, "Matrix product, scales of w");
        int size = s.Result.Bytes();
        byte* y = null;
        for (int t = 0; t < s.Tokens; t++)
        {
            DevicePointer row = operands.Y + ((long)t * stride * size);
            if (s.Accumulate)
                memory.Read(row, (long)s.Outputs * size, "Matrix product, y");
            byte* place = memory.Write(row, (long)s.Outputs * size, "Matrix product, y", device.Serial);
            y = t == 0 ? place : y;
        }

        float[] widened = new float[(long)s.Tokens * s.Inputs];
        fixed (float* start = widened)
        {
            Widen(x, s.Activations, start, widened.Length);
        }

        float alpha = operands.Alpha;
        int chunk = Math.Max(1, Math.Min(256, (s.Outputs + 7) / 8));
        Parallel.For(0, (s.Outputs + chunk - 1) / chunk, part =>
        {
            float[] row = new float[s.Inputs];
            for (int o = part * chunk; o < Math.Min(s.Outputs, (part + 1) * chunk); o++)
            {
                fixed (float* start = row)
                {
                    Widen(w + ((long)o * s.Inputs * s.Weights.Bytes()), s.Weights, start, s.Inputs);
                }

                for (int t = 0; t < s.Tokens; t++)
                {
                    float sum = alpha * Dot(widened.AsSpan(t * s.Inputs, s.Inputs), row, xScale, wScale, t, o);
                    byte* at = y + ((((long)t * stride) + o) * size);
                    if (bias != null)
                        sum += Value(bias, biasType, o);
                    if (s.Accumulate)
                        sum += Value(at, s.Result, 0);
                    Set(at, s.Result, sum);
                }
            }
        });
    }

    public void Dispose()
    {
        if (!_isDisposed)
            device.MatmulDisposed();
        _isDisposed = true;
    }

    private float Dot(ReadOnlySpan<float> x, ReadOnlySpan<float> w, float* xScale, float* wScale, int t, int o)
    {
        MatmulShape s = Shape;
        if (s.ActivationScale is not (MatmulScale.RowGroup128 or MatmulScale.Block128) && s.WeightScale is not (MatmulScale.RowGroup128 or MatmulScale.Block128))
            return Scale(s.ActivationScale, xScale, t, 0, s.Tokens) * Scale(s.WeightScale, wScale, o, 0, s.Outputs) * Dot(x, w);
        float sum = 0;
        for (int i = 0; i < x.Length; i += Group)
        {
            int count = Math.Min(Group, x.Length - i);
            sum += Scale(s.ActivationScale, xScale, t, i / Group, s.Tokens) * Scale(s.WeightScale, wScale, o, i / Group, s.Outputs)
                * Dot(x.Slice(i, count), w.Slice(i, count));
        }

        return sum;
    }

    private static float Dot(ReadOnlySpan<float> x, ReadOnlySpan<float> w)
    {
        Vector512<float> sum = Vector512<float>.Zero;
        int i = 0;
        for (; i + 16 <= x.Length; i += 16)
            sum = Vector512.FusedMultiplyAdd(Vector512.Create(x.Slice(i, 16)), Vector512.Create(w.Slice(i, 16)), sum);
        float total = Vector512.Sum(sum);
        for (; i < x.Length; i++)
            total = MathF.FusedMultiplyAdd(x[i], w[i], total);
        return total;
    }

    private float Scale(MatmulScale kind, float* scales, int row, int group, int rows) => kind switch
    {
        MatmulScale.None => 1,
        MatmulScale.Tensor => scales[0],
        MatmulScale.Row => scales[row],
        MatmulScale.RowGroup128 => scales[((long)group * RoundUp(rows, 4)) + row],
        _ => scales[((long)(row / Group) * RoundUp((Shape.Inputs + Group - 1) / Group, 4)) + group],
    };

    /// <summary>The scales of an operand. Those that pad a layout to a multiple of four are not read.</summary>
    private byte* Scales(DevicePointer pointer, MatmulScale kind, int rows, string what)
    {
        int groups = (Shape.Inputs + Group - 1) / Group;
        (int lines, int used, int stride) = kind switch
        {
            MatmulScale.None => (0, 0, 0),
            MatmulScale.Tensor => (1, 1, 1),
            MatmulScale.Row => (1, rows, rows),
            MatmulScale.RowGroup128 => (groups, rows, RoundUp(rows, 4)),
            _ => ((rows + Group - 1) / Group, groups, RoundUp(groups, 4)),
        };
        for (int i = 0; i < lines; i++)
            device.Memory.Read(pointer + ((long)i * stride * sizeof(float)), (long)used * sizeof(float), what);
        return lines == 0 ? null : device.Memory.Read(pointer, sizeof(float), what);
    }

    private static int RoundUp(int value, int multiple) => (value + multiple - 1) / multiple * multiple;

    private static void Widen(byte* from, ElementType type, float* to, long count)
    {
        long i = 0;
        if (type is ElementType.BF16 or ElementType.F16)
        {
            for (; i + 16 <= count; i += 16)
            {
                Vector256<ushort> codes = Vector256.Load((ushort*)from + i);
                Vector512<uint> wide = Vector512.Create(Vector256.WidenLower(codes), Vector256.WidenUpper(codes));
                Vector512.Store(type == ElementType.BF16 ? BF16.Widen(wide) : F16.Widen(wide), to + i);
            }
        }

        for (; i < count; i++)
            to[i] = Value(from, type, i);
    }

    private static float Value(byte* from, ElementType type, long at) => type switch
    {
        ElementType.F32 => ((float*)from)[at],
        ElementType.F16 => (float)((Half*)from)[at],
        ElementType.BF16 => BitConverter.UInt32BitsToSingle((uint)((ushort*)from)[at] << 16),
        ElementType.E4M3 => Float8.E4M3.Values[from[at]],
        ElementType.E5M2 => Float8.E5M2.Values[from[at]],
        _ => throw new ArgumentOutOfRangeException(nameof(type), type, null),
    };

    private static void Set(byte* to, ElementType type, float value)
    {
        switch (type)
        {
            case ElementType.F32:
                *(float*)to = value;
                break;
            case ElementType.F16:
                *(Half*)to = (Half)value;
                break;
            case ElementType.BF16:
                *(ushort*)to = (ushort)BF16.Narrow(Vector512.Create(value))[0];
                break;
            default:
                throw new ArgumentOutOfRangeException(nameof(type), type, null);
        }
    }
}
