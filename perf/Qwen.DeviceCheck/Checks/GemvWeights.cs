using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.DeviceCheck.Checks;

/// <summary>A product of a decoder layer.</summary>
internal sealed record LayerPart(string Name, int Outputs, int Inputs, bool Bias = false, bool Accumulate = false, bool Gated = false)
{
    /// <summary>Its half of the norms around it.</summary>
    public FusedNorm Norm => Accumulate ? FusedNorm.OfResult : FusedNorm.OfInput;

    /// <summary>Type of its y.</summary>
    public ElementType Result => Accumulate ? ElementType.F32 : ElementType.BF16;
}

/// <summary>The widths of a decoder layer.</summary>
internal sealed record LayerShape(string Model, int Hidden, int Qkv, int Intermediate)
{
    public static readonly LayerShape Large = new("7B", 3584, 4608, 18944), Small = new("0.5B", 896, 1152, 4864);

    public LayerPart[] Parts { get; } =
        [new("qkv", Qkv, Hidden, Bias: true), new("output", Hidden, Hidden, Accumulate: true), new("gate and up", 2 * Intermediate, Hidden, Gated: true), new("down", Hidden, Intermediate, Accumulate: true)];
}

/// <summary>y from x, and the weights, with ones as scales and biases.</summary>
internal delegate void LaunchGemv(DevicePointer weights, DevicePointer ones, DevicePointer x, DevicePointer y, int tokens, in FusedNormArguments norm);

/// <summary>A form of weights of a layer's products, and the kernel of few tokens for it.</summary>
internal abstract class GemvWeights
{
    public static GemvWeights[] All =>
    [
        new PackedWeights(new PackedFormat(4, 128, PackedOffset.ZeroPoint)), new PackedWeights(new PackedFormat(4, 32, PackedOffset.Minimum)),
        new DenseWeights(ElementType.E4M3, MatmulScale.Row), new DenseWeights(ElementType.BF16, MatmulScale.None),
    ];

    public abstract long Bytes(LayerPart part);

    /// <summary>Bytes of a unit of a row tile in a ring.</summary>
    public abstract int UnitBytes { get; }

    /// <summary>Whether a kernel without rings is a candidate.</summary>
    public virtual bool MayUseRegisters => false;

    public abstract GemvTiling Tiling(LayerPart part, DeviceInfo device);

    /// <summary>Has the engine take a tiling for such a matrix, or its own.</summary>
    public abstract void Tune(LayerPart part, GemvTiling? tiling);

    public abstract (Kernel Kernel, LaunchGemv Launch) Product(KernelCache cache, IDeviceStream stream, LayerPart part, GemvTiling tiling, FusedNorm norm);

    /// <summary>Bytes that stand for small weights, over and over.</summary>
    public abstract byte[] Values(LayerPart part);

    private sealed class PackedWeights(PackedFormat format) : GemvWeights
    {
        public override int UnitBytes => PackedGemvKernel.UnitBytes(format);

        public override long Bytes(LayerPart part) => Matrix(part).ByteCount;

        public override GemvTiling Tiling(LayerPart part, DeviceInfo device) => PackedGemvKernel.TilingFor(ProductOf(part), Matrix(part), device);

        public override void Tune(LayerPart part, GemvTiling? tiling)
        {
            if (tiling is { } chosen)
                PackedGemvKernel.Tuned[(format, part.Outputs, part.Inputs)] = chosen;
            else
                PackedGemvKernel.Tuned.Remove((format, part.Outputs, part.Inputs));
        }

        public override (Kernel Kernel, LaunchGemv Launch) Product(KernelCache cache, IDeviceStream stream, LayerPart part, GemvTiling tiling, FusedNorm norm)
        {
            PackedMatrix matrix = Matrix(part);
            var kernel = new PackedGemvKernel(cache, ProductOf(part) with { Norm = norm }, tiling);
            return (kernel, (weights, ones, x, y, tokens, in fused) => kernel.Launch(stream, matrix, weights, x, ones, y, tokens, fused));
        }

        public override byte[] Values(LayerPart part)
        {
            PackedMatrix matrix = Matrix(part);
            var values = new byte[matrix.ByteCount];
            var random = new Random(part.Outputs);
            random.NextBytes(values.AsSpan(0, (int)matrix.CodeBytes));
            for (int i = (int)matrix.CodeBytes; i < values.Length; i += 2)
                BitConverter.TryWriteBytes(values.AsSpan(i), (Half)(random.NextSingle() * 0.01f)); // scales, and offsets of their size
            return values;
        }

        public override string ToString() => format.ToString();

        private PackedMatrix Matrix(LayerPart part) => new(part.Outputs, part.Inputs, format);

        private PackedProduct ProductOf(LayerPart part) => new(format, ElementType.BF16, part.Result, part.Accumulate, part.Bias, part.Gated);
    }

    private sealed class DenseWeights(ElementType type, MatmulScale scale) : GemvWeights
    {
        public override bool MayUseRegisters => true;

        public override int UnitBytes => DenseGemvKernel.UnitBytes(new DenseProduct(type, ElementType.BF16, ElementType.BF16, scale));

        public override long Bytes(LayerPart part) => (long)part.Outputs * part.Inputs * type.Bytes();

        public override GemvTiling Tiling(LayerPart part, DeviceInfo device) => DenseGemvKernel.TilingFor(ProductOf(part), part.Outputs, part.Inputs, device);

        public override void Tune(LayerPart part, GemvTiling? tiling)
        {
            if (tiling is { } chosen)
                DenseGemvKernel.Tuned[(type, scale, part.Outputs, part.Inputs)] = chosen;
            else
                DenseGemvKernel.Tuned.Remove((type, scale, part.Outputs, part.Inputs));
        }

        public override (Kernel Kernel, LaunchGemv Launch) Product(KernelCache cache, IDeviceStream stream, LayerPart part, GemvTiling tiling, FusedNorm norm)
        {
            var kernel = new DenseGemvKernel(cache, ProductOf(part) with { Norm = norm }, tiling);
            return (kernel, (weights, ones, x, y, tokens, in fused) => kernel.Launch(stream, weights, ones, x, ones, y, part.Outputs, part.Inputs, tokens, fused));
        }

        public override byte[] Values(LayerPart part) => SmallFloats.Random(new Random(part.Outputs), type, 1 << 20).Bytes;

        public override string ToString() => $"{type} {scale}";

        private DenseProduct ProductOf(LayerPart part) => new(type, ElementType.BF16, part.Result, scale, part.Accumulate, part.Bias, part.Gated);
    }
}
