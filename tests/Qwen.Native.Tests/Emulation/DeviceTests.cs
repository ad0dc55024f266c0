using Qwen.Emulation;
using Qwen.Native.Blas;
using Qwen.Native.Device;

namespace Qwen.Native.Tests.Emulation;

/// <summary>The device around the kernels: modules, graphs, events, products.</summary>
public sealed class DeviceTests
{
    private const string Increment = """
        mul.wide.u32 %rd1, %tx, 4; add.u64 %rd1, %out, %rd1; ld.global.u32 %r1, [%rd1]; add.u32 %r1, %r1, %nby; st.global.u32 [%rd1], %r1; ret;
        """;

    [Theory]
    [InlineData(".version 9.1", ".target sm_90", "up to 9.0")]
    [InlineData(".version 8.0", ".target sm_90a", "8.9")]
    [InlineData(".version 8.0", ".target sm_90", "8.9")]
    [InlineData(".version 7.0", ".target sm_86", "7.1")]
    [InlineData(".version 8.0", ".target compute_80", "not known")]
    public void Texts_ForWhatTheDeviceLacks_AreRefused(string version, string target, string reason)
    {
        using Machine machine = new(computeCapability: 89);
        string text = $"{version}\n{target}\n.address_size 64\n.visible .entry k() {{ ret; }}";
        Assert.Contains(reason, Assert.Throws<PtxException>(() => machine.Device.LoadModule(text)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("cvt.rn.satfinite.e4m3x2.f32 %h1, %f1, %f2;", "sm_80", "sm_89")]
    [InlineData("griddepcontrol.wait;", "sm_89", "sm_90")]
    [InlineData("add.bf16x2 %r1, %r2, %r3;", "sm_89", "sm_90")]
    [InlineData("elect.sync %r1|%p1, -1;", "sm_89", "sm_90")]
    [InlineData("add.u32 %r1, %f1, 2;", "sm_90", "does not hold")]
    [InlineData("add.u32 %r1, %rd1, 2;", "sm_90", "does not hold")]
    [InlineData("add.u32 %r1, %r900, 2;", "sm_90", "not declared")]
    [InlineData("add.u32 %r1, %r2;", "sm_90", "operands")]
    [InlineData("add.rz.f32 %f1, %f2, %f3;", "sm_90", ".rz is not known")]
    [InlineData("frobnicate.u32 %r1;", "sm_90", "not known")]
    [InlineData("bra NOWHERE;", "sm_90", "label")]
    [InlineData("st.param.u32 [p_out], %r1;", "sm_90", "not written")]
    [InlineData("st.const.u32 [%out], %r1;", "sm_90", "not written")]
    [InlineData("ld.global.v4.u64 {%rd1, %rd2, %rd3, %rd4}, [%out];", "sm_90", "16 bytes")]
    [InlineData("ld.param.u32 %r1, [p_out+8];", "sm_90", "parameter")]
    public void Instructions_AgainstTheRules_AreRefused_WithTheirLine(string instruction, string target, string reason)
    {
        using Machine machine = new();
        PtxException refused = Assert.Throws<PtxException>(() => machine.Device.LoadModule(Machine.Text(instruction + "\nret;", "out", target)));
        Assert.Contains(reason, refused.Message, StringComparison.Ordinal);
        Assert.True(refused.Line > 5);
    }

    [Fact]
    public void Graph_ReplaysTheCalls_WithTheArgumentsOfThen()
    {
        using Machine machine = new();
        DeviceBuffer data = machine.Buffer<uint>(new uint[32]);
        using IDeviceModule module = machine.Device.LoadModule(Machine.Text(Increment, "out nby"));
        IDeviceFunction function = module.Function("k");
        ulong[] arguments = [Argument.Of(data.Pointer), Argument.Of(5)];
        machine.Stream.BeginCapture();
        machine.Stream.Launch(function, 1, 32, arguments);
        arguments[1] = Argument.Of(100);
        machine.Stream.Launch(function, 1, 32, arguments);
        Assert.Throws<DeviceException>(() => machine.Device.Allocate(16));
        Assert.Throws<DeviceException>(machine.Stream.Synchronize);
        using IDeviceGraph graph = machine.Stream.EndCapture();
        arguments[1] = 0;
        Assert.Equal(2, graph.Nodes);
        Assert.All(machine.Read<uint>(data), w => Assert.Equal(0u, w));
        machine.Stream.Launch(graph);
        machine.Stream.Launch(graph);
        Assert.All(machine.Read<uint>(data), w => Assert.Equal(210u, w));
    }

    [Fact]
    public void Launches_AreChecked()
    {
        using Machine machine = new();
        DeviceBuffer data = machine.Buffer<uint>(new uint[32]);
        using IDeviceModule module = machine.Device.LoadModule(Machine.Text(Increment, "out nby"));
        IDeviceFunction function = module.Function("k");
        Assert.Throws<DeviceException>(() => module.Function("other"));
        Assert.Throws<DeviceException>(() => module.Function("k", 300 << 10));
        Assert.Contains("2 parameters", Assert.Throws<DeviceException>(() => machine.Stream.Launch(function, 1, 32, [1ul])).Message, StringComparison.Ordinal);
        Assert.Throws<DeviceException>(() => machine.Stream.Launch(function, 1, 1025, [1ul, 2ul]));
        Assert.Throws<DeviceException>(() => machine.Stream.Launch(function, new Dim3(1, 70000), 32, [1ul, 2ul]));
        Assert.Throws<DeviceOutOfMemoryException>(() => machine.Device.Allocate(5L << 30));
        Assert.Equal(8, function.BlocksPerMultiprocessor(256));
    }

    [Fact]
    public void SeveralBlocks_GiveTheSameFault_EveryTime()
    {
        for (int i = 0; i < 5; i++)
        {
            DeviceFaultException fault = Machine.Fault("setp.lt.u32 %p1, %bx, 11; @%p1 ret;\nld.global.u32 %r1, [%out];\nret;", grid: 200);
            Assert.Equal(new Dim3(11, 0, 0), fault.Block);
        }
    }

    public static TheoryData<int> Products => [.. Enumerable.Range(0, MatmulShapes.All().Count())];

    [Theory]
    [MemberData(nameof(Products))]
    public void Product_IsTheSum_OrIsRefusedByTheRules(int index)
    {
        MatmulShape shape = MatmulShapes.All(tokens: 8, outputs: 64, inputs: 160).ElementAt(index);
        using Machine machine = new();
        if (MatmulRules.WhyNot(shape, 90, machine.Device.MatrixLibraryVersion) is not null)
        {
            Assert.False(machine.Device.Supports(shape));
            Assert.Throws<NotSupportedException>(() => machine.Device.CreateMatmul(shape));
            return;
        }

        Random random = new(index);
        (double[] x, byte[] xs) = Values(random, shape.Tokens * shape.Inputs, shape.Activations);
        (double[] w, byte[] ws) = Values(random, shape.Outputs * shape.Inputs, shape.Weights);
        (double[] y, byte[] ys) = Values(random, shape.Tokens * shape.Outputs, shape.Result);
        (double[] bias, byte[] biases) = Values(random, shape.Outputs, MatmulRules.BiasType(shape));
        float[] xScale = [.. Enumerable.Range(0, 4096).Select(_ => (float)random.NextDouble())], wScale = [.. Enumerable.Range(0, 4096).Select(_ => (float)random.NextDouble())];
        DeviceBuffer result = machine.Buffer<byte>(ys);
        using IMatmul product = machine.Device.CreateMatmul(shape);
        machine.Stream.Matmul(product, new MatmulOperands(machine.Buffer<byte>(xs).Pointer, machine.Buffer<byte>(ws).Pointer, result.Pointer,
            shape.Bias ? machine.Buffer<byte>(biases).Pointer : default,
            shape.ActivationScale != MatmulScale.None ? machine.Buffer<float>(xScale).Pointer : default,
            shape.WeightScale != MatmulScale.None ? machine.Buffer<float>(wScale).Pointer : default, 1.5f));
        double[] got = Decode(machine.Read<byte>(result), shape.Result);
        for (int t = 0; t < shape.Tokens; t++)
        {
            for (int o = 0; o < shape.Outputs; o++)
            {
                double sum = 0, size = 0;
                for (int i = 0; i < shape.Inputs; i++)
                {
                    double term = x[(t * shape.Inputs) + i] * w[(o * shape.Inputs) + i] * 1.5
                        * Scale(shape.ActivationScale, xScale, t, i, shape.Tokens, shape.Inputs) * Scale(shape.WeightScale, wScale, o, i, shape.Outputs, shape.Inputs);
                    sum += term;
                    size += Math.Abs(term);
                }

                double expected = sum + (shape.Bias ? bias[o] : 0) + (shape.Accumulate ? y[(t * shape.Outputs) + o] : 0);
                double tolerance = (size * 1e-5) + (Math.Abs(expected) * (shape.Result == ElementType.F32 ? 1e-6 : shape.Result == ElementType.F16 ? 1e-3 : 8e-3));
                Assert.InRange(got[(t * shape.Outputs) + o], expected - tolerance, expected + tolerance);
            }
        }
    }

    private static double Scale(MatmulScale kind, float[] scales, int row, int column, int rows, int columns) => kind switch
    {
        MatmulScale.None => 1,
        MatmulScale.Tensor => scales[0],
        MatmulScale.Row => scales[row],
        MatmulScale.RowGroup128 => scales[(column / 128 * ((rows + 3) / 4 * 4)) + row],
        _ => scales[(row / 128 * (((columns + 127) / 128 + 3) / 4 * 4)) + (column / 128)],
    };

    private static (double[] Values, byte[] Bytes) Values(Random random, int count, ElementType type)
    {
        byte[] bytes = new byte[count * type.Bytes()];
        for (int i = 0; i < count; i++)
        {
            float value = (float)(random.NextDouble() - 0.5);
            byte[] element = type switch
            {
                ElementType.F32 => BitConverter.GetBytes(value),
                ElementType.F16 => BitConverter.GetBytes((Half)value),
                ElementType.BF16 => BitConverter.GetBytes((ushort)(BitConverter.SingleToUInt32Bits(value) >> 16)),
                _ => [(byte)(random.Next(256) & 0xbf)],
            };
            element.CopyTo(bytes, i * element.Length);
        }

        return (Decode(bytes, type), bytes);
    }

    private static double[] Decode(byte[] bytes, ElementType type) => [.. Enumerable.Range(0, bytes.Length / type.Bytes()).Select(i => type switch
    {
        ElementType.F32 => BitConverter.ToSingle(bytes, i * 4),
        ElementType.F16 => (double)BitConverter.ToHalf(bytes, i * 2),
        ElementType.BF16 => BitConverter.UInt32BitsToSingle((uint)BitConverter.ToUInt16(bytes, i * 2) << 16),
        ElementType.E4M3 => Code(bytes[i], 3, 7),
        _ => Code(bytes[i], 2, 15),
    })];

    private static double Code(byte code, int mantissa, int bias)
    {
        int exponent = (code & 0x7f) >> mantissa, fraction = code & ((1 << mantissa) - 1);
        double value = exponent == 0 ? Math.ScaleB(fraction, 1 - bias - mantissa) : Math.ScaleB(fraction + (1 << mantissa), exponent - bias - mantissa);
        return code >= 128 ? -value : value;
    }
}
