using Qwen.Runtime.Models;

namespace Qwen.Runtime.Tests.Models;

public sealed class RopeScalingTests
{
    private const double Theta = 1e6;
    private const int Dim = 128, Trained = 32768;

    [Fact]
    public void None_IsThePlainGeometricSeries()
    {
        double[] frequencies = RopeScaling.None.InverseFrequencies(Dim, Theta, Trained, Trained);
        Assert.Equal(64, frequencies.Length);
        Assert.Equal(1, frequencies[0]);
        Assert.Equal(Math.Pow(Theta, -126.0 / 128), frequencies[63], 1e-18);
        Assert.Equal(1, RopeScaling.None.Magnitude);
    }

    [Fact]
    public void Linear_DividesEveryAngle()
    {
        double[] plain = RopeScaling.None.InverseFrequencies(Dim, Theta, Trained, Trained);
        double[] scaled = new RopeScaling { Kind = RopeScalingKind.Linear, Factor = 4 }.InverseFrequencies(Dim, Theta, Trained, 4 * Trained);
        Assert.Equal(plain.Select(f => f / 4), scaled);
    }

    /// <summary>Dimensions that turn more than 32 times over the original context keep their angle; those under one turn are divided by the factor.</summary>
    [Fact]
    public void Yarn_KeepsFastDimensions_AndInterpolatesSlowOnes()
    {
        var yarn = new RopeScaling { Kind = RopeScalingKind.Yarn, Factor = 4, OriginalContext = Trained };
        double[] plain = RopeScaling.None.InverseFrequencies(Dim, Theta, Trained, Trained);
        double[] scaled = yarn.InverseFrequencies(Dim, Theta, Trained, 4 * Trained);
        for (int i = 0; i < scaled.Length; i++)
        {
            double turns = Trained * plain[i] / (2 * Math.PI), ratio = plain[i] / scaled[i];
            Assert.InRange(ratio, 1 - 1e-12, 4 + 1e-12);
            if (turns > 40)
                Assert.Equal(1, ratio, 1e-12);
            if (turns < 0.8)
                Assert.Equal(4, ratio, 1e-12);
        }

        Assert.Equal((0.1 * Math.Log(4)) + 1, yarn.Magnitude);
        Assert.Equal(1.5, (yarn with { AttentionFactor = 1.5 }).Magnitude);
    }

    [Fact]
    public void DynamicNtk_RaisesTheBase_OnlyBeyondTheOriginalContext()
    {
        var ntk = new RopeScaling { Kind = RopeScalingKind.DynamicNtk, Factor = 2 };
        double[] plain = RopeScaling.None.InverseFrequencies(Dim, Theta, Trained, Trained);
        Assert.Equal(plain, ntk.InverseFrequencies(Dim, Theta, Trained, Trained));

        // Hugging Face: base * (factor * length / original - (factor - 1)) ^ (dim / (dim - 2)), here with length = 2 * original.
        double theta = Theta * Math.Pow(3, 128.0 / 126);
        double[] longer = ntk.InverseFrequencies(Dim, Theta, Trained, 2 * Trained);
        for (int i = 0; i < longer.Length; i++)
            Assert.Equal(Math.Pow(theta, -2.0 * i / Dim), longer[i], 1e-15);
    }
}
