using Qwen.Native.Blas;
using Qwen.Native.Device;

namespace Qwen.Native.Tests.Blas;

public sealed class MatmulRulesTests
{
    private static readonly MatmulShape Dense = new(7, 24, 32, ElementType.BF16, ElementType.BF16, ElementType.BF16);

    private static readonly MatmulShape Float8 = Dense with
    {
        Weights = ElementType.E4M3, Activations = ElementType.E4M3, WeightScale = MatmulScale.Tensor, ActivationScale = MatmulScale.Tensor,
    };

    public static TheoryData<MatmulShape, int, int, string?> Cases => new()
    {
        { Dense, 80, 111103, null },
        { Dense with { Tokens = 1, Outputs = 1, Inputs = 1 }, 80, 111103, null },
        { Dense with { Result = ElementType.F32, Accumulate = true, Bias = true, ResultStride = 100 }, 80, 111103, null },
        { Dense with { Weights = ElementType.F32, Activations = ElementType.F32, Result = ElementType.F32 }, 80, 111103, null },
        { Dense with { Tokens = 0 }, 90, 130000, "empty" },
        { Dense with { ResultStride = 23 }, 90, 130000, "stride of 23" },
        { Dense with { Activations = ElementType.F16 }, 90, 130000, "take BF16 activations" },
        { Dense with { Result = ElementType.F16 }, 90, 130000, "give BF16 or F32" },
        { Dense with { WeightScale = MatmulScale.Tensor }, 90, 130000, "has no scales" },
        { Dense with { Weights = ElementType.S8, Activations = ElementType.S8 }, 90, 130000, "S8 are not multiplied" },
        { Float8, 89, 111103, null },
        { Float8 with { Activations = ElementType.E5M2, Result = ElementType.F32, Bias = true }, 90, 120500, null },
        { Float8, 86, 130000, "capability 8.9, not 8.6" },
        { Float8, 89, 110101, "CUDA 11.8" },
        { Float8 with { Activations = ElementType.BF16 }, 90, 130000, "take E4M3 or E5M2" },
        { Float8 with { Weights = ElementType.E5M2 }, 90, 130000, "E5M2 are not multiplied" },
        { Float8 with { Inputs = 24 }, 90, 130000, "multiples of 16 inputs" },
        { Float8 with { Outputs = 12 }, 90, 130000, "multiple of 16 bytes" },
        { Float8 with { Outputs = 12, Result = ElementType.F32 }, 90, 130000, null },
        { Float8 with { ResultStride = 28 }, 90, 130000, "multiple of 16 bytes" },
        { Float8 with { WeightScale = MatmulScale.Row, ActivationScale = MatmulScale.Row }, 90, 120900, null },
        { Float8 with { WeightScale = MatmulScale.Row, ActivationScale = MatmulScale.Row }, 90, 120899, "12.9" },
        { Float8 with { WeightScale = MatmulScale.Row, ActivationScale = MatmulScale.Row }, 89, 130000, "capability 9.0" },
        { Float8 with { WeightScale = MatmulScale.Row }, 90, 130000, "do not go with" },
        { Float8 with { Tokens = 8, WeightScale = MatmulScale.Block128, ActivationScale = MatmulScale.RowGroup128 }, 90, 120900, null },
        { Float8 with { Tokens = 8, WeightScale = MatmulScale.Block128, ActivationScale = MatmulScale.Block128 }, 90, 120900, "do not go with" },
        { Float8 with { Tokens = 7, WeightScale = MatmulScale.Block128, ActivationScale = MatmulScale.RowGroup128 }, 90, 120900, "multiples of 4" },
    };

    [Theory]
    [MemberData(nameof(Cases))]
    public void WhyNot_FollowsTheDocumentation(MatmulShape shape, int computeCapability, int version, string? reason)
    {
        if (reason is null)
            Assert.Null(MatmulRules.WhyNot(shape, computeCapability, version));
        else
            Assert.Contains(reason, MatmulRules.WhyNot(shape, computeCapability, version), StringComparison.Ordinal);
    }

    [Fact]
    public void WhyNot_ChecksOperands()
    {
        var good = new MatmulOperands(new(256), new(512), new(1024), XScale: new(4), WScale: new(8));
        Assert.Null(MatmulRules.WhyNot(Float8, good));
        Assert.Contains("no address", MatmulRules.WhyNot(Float8, good with { Y = default }), StringComparison.Ordinal);
        Assert.Contains("16 bytes", MatmulRules.WhyNot(Float8, good with { X = new(264) }), StringComparison.Ordinal);
        Assert.Contains("activations' scale", MatmulRules.WhyNot(Float8, good with { XScale = default }), StringComparison.Ordinal);
        Assert.Contains("weights' scale", MatmulRules.WhyNot(Float8, good with { WScale = default }), StringComparison.Ordinal);
        Assert.Contains("bias", MatmulRules.WhyNot(Float8, good with { Bias = new(256) }), StringComparison.Ordinal);
        Assert.Contains("bias", MatmulRules.WhyNot(Float8 with { Bias = true }, good), StringComparison.Ordinal);
        Assert.Contains("block scales", MatmulRules.WhyNot(Float8 with { WeightScale = MatmulScale.Block128, ActivationScale = MatmulScale.RowGroup128 }, good), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(ElementType.BF16, ElementType.F32, ElementType.F32)]
    [InlineData(ElementType.E4M3, ElementType.F32, ElementType.BF16)]
    [InlineData(ElementType.E4M3, ElementType.F16, ElementType.F16)]
    public void BiasType_IsTheResults_ExceptForFloat8InF32(ElementType weights, ElementType result, ElementType bias) =>
        Assert.Equal(bias, MatmulRules.BiasType(Float8 with { Weights = weights, Result = result }));
}
