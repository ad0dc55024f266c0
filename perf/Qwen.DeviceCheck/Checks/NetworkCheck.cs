using System.Numerics.Tensors;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;

namespace Qwen.DeviceCheck.Checks;

/// <summary>Whole networks on the device beside the CPU: the logits of a prompt, of a chunked one, and of decoding steps, plain and as graphs.</summary>
/// <param name="models">Model, type of the KV cache, and the error allowed as a part of the logits' deviation.</param>
internal sealed class NetworkCheck(params (string Model, KvCacheType Cache, double Bound)[] models) : ICheck
{
    private const int PromptTokens = 37, DecodeTokens = 8, Sequences = 3;

    public string Name => "network";

    public void Verify(CheckSession session)
    {
        foreach ((string model, KvCacheType cache, double bound) in models)
            session.Case($"{model}, {cache} cache", () => Compare(session, model, cache, bound));
    }

    public void Time(CheckSession session)
    {
    }

    private static void Compare(CheckSession session, string model, KvCacheType cache, double bound)
    {
        var options = new EngineOptions { Device = new ComputeDevice(ComputeDeviceKind.Cpu), KvCacheType = cache, MaxModelLength = 256, MaxSequences = 8, MaxBatchedTokens = 192 }; // a chunk that packed weights are unpacked for, and one that they are not
        using LoadedModel cpu = LoadedModel.Load(model, options), gpu = LoadedModel.Load(model, options with { Device = new ComputeDevice(ComputeDeviceKind.Cuda) });
        using SequenceEvaluator expected = new(cpu, Sequences), actual = new(gpu, Sequences);
        var random = new Random(11);
        int[] next = new int[Sequences];
        double worst = 0;
        int agreed = 0;
        for (int s = 0; s < Sequences; s++)
        {
            int[] prompt = [.. Enumerable.Range(0, PromptTokens + (s * 90)).Select(_ => random.Next(cpu.Config.VocabularySize))];
            ReadOnlySpan<float> logits = expected.Evaluate(prompt, s);
            next[s] = TensorPrimitives.IndexOfMax(logits);
            Note(logits, actual.Evaluate(prompt, s), ref worst, ref agreed);
        }

        for (int step = 0; step < DecodeTokens; step++)
        {
            expected.Advance(next);
            actual.Advance(next);
            for (int s = 0; s < Sequences; s++)
            {
                next[s] = TensorPrimitives.IndexOfMax(expected.Logits(s));
                Note(expected.Logits(s), actual.Logits(s), ref worst, ref agreed);
            }
        }

        session.Note($"{model}, {cache}: error {worst:0.0000} of the logits' deviation, same token {agreed} of {Sequences * (DecodeTokens + 1)}; {gpu.BackendName}");
        CheckSession.True(worst < bound, $"an error of {worst} of the logits' deviation is more than {bound}");
    }

    private static void Note(ReadOnlySpan<float> expected, ReadOnlySpan<float> actual, ref double worst, ref int agreed)
    {
        double sum = 0;
        for (int i = 0; i < expected.Length; i++)
            sum += (expected[i] - actual[i]) * (double)(expected[i] - actual[i]);
        double error = Math.Sqrt(sum / expected.Length) / TensorPrimitives.StdDev(expected);
        worst = double.IsNaN(error) ? double.PositiveInfinity : Math.Max(worst, error);
        if (TensorPrimitives.IndexOfMax(expected) == TensorPrimitives.IndexOfMax(actual))
            agreed++;
    }
}
