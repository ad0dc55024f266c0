using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Tests.Formats;

namespace Qwen.Runtime.Tests.Models;

/// <summary>Whole loads: a quantized checkpoint against an F32 checkpoint that holds the values which its codes mean.</summary>
public sealed class QuantizedLogitsTests : IDisposable
{
    private static readonly EngineOptions Options = new() { KvCacheType = KvCacheType.F32, MaxSequences = 1, MaxBatchedTokens = 16, MaxModelLength = 64, Threads = 2 };

    private readonly string _folder = Directory.CreateTempSubdirectory("qwen-quantized-").FullName;

    public static TheoryData<int> Groups => [.. Enumerable.Range(0, GroupSchemes.Length)];

    public static TheoryData<int> Floats => [.. Enumerable.Range(0, FloatSchemes.Length)];

    private static Scheme[] GroupSchemes { get; } = [.. QuantizedSchemes.Repacked()];

    private static Scheme[] FloatSchemes { get; } = [.. QuantizedSchemes.Float8(), .. QuantizedSchemes.Widened()];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    /// <summary>Activations are rounded to 8 bits there: the logits of these networks move by half a percent to three; a column or a zero point out of place, by most of their size.</summary>
    [Theory]
    [MemberData(nameof(Groups))]
    public void GroupQuantized_IsCloseToItsValues(int index) => Compare(new TinyModel(GroupSchemes[index], seed: index), GroupSchemes[index], 0.05);

    /// <summary>Computed in floats, so only the order of additions differs. Rows of 200 leave a rest in every loop.</summary>
    [Theory]
    [MemberData(nameof(Floats))]
    public void FloatWeights_AreTheirValues(int index) => Compare(new TinyModel(FloatSchemes[index], seed: index, intermediate: 200), FloatSchemes[index], 1e-5);

    private void Compare(TinyModel tiny, Scheme scheme, double relative)
    {
        string quantizedFolder = Path.Combine(_folder, "quantized"), exactFolder = Path.Combine(_folder, "exact");
        TinyModel.Write(quantizedFolder, tiny.Quantized, tiny.QuantizedConfig);
        TinyModel.Write(exactFolder, tiny.Exact, tiny.Config);
        using LoadedModel quantized = LoadedModel.Load(quantizedFolder, Options), exact = LoadedModel.Load(exactFolder, Options);
        Assert.True(quantized.WeightBytesPerToken <= exact.WeightBytesPerToken);
        using SequenceEvaluator ours = new(quantized), theirs = new(exact);
        int[] prompt = [1, 250, 37, 99, 4, 8, 15, 16, 23, 42, 108, 200];
        foreach (int[] chunk in (int[][])[prompt, [77], [3]]) // a tile of tokens, then one by one
        {
            float[] a = ours.Evaluate(chunk).ToArray(), b = theirs.Evaluate(chunk).ToArray();
            double error = Math.Sqrt(a.Zip(b, (x, y) => Math.Pow(x - y, 2)).Average()), size = Math.Sqrt(b.Average(y => Math.Pow(y, 2)));
            Assert.True(error <= relative * size, $"{scheme}: rms {error:E2} of {size:E2}");
        }
    }
}
