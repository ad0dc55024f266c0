using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Tests.Engine;

/// <summary>A network without weights: after a token comes a function of it. It can be told to fail.</summary>
internal sealed class FakeNetwork(int vocabulary) : IModelRunner
{
    private readonly float[] _logits = new float[4096 * vocabulary];

    /// <summary>Called before each step.</summary>
    public Action<Batch>? BeforeStep { get; set; }

    public int Steps { get; private set; }

    public int Copies { get; private set; }

    public LogitSampler? Sampler => null;

    public bool ReadsItsChoices => false;

    /// <summary>The likeliest token after one.</summary>
    public int After(int token) => ((token * 7) + 3) % vocabulary;

    public void CopyBlocks(ReadOnlySpan<BlockCopy> copies) => Copies += copies.Length;

    public unsafe void Forward(Batch batch)
    {
        BeforeStep?.Invoke(batch);
        Steps++;
        for (int i = 0; i < batch.LogitRowCount; i++)
        {
            int row = batch.LogitRows[i];
            Span<float> logits = Logits(i);
            logits.Clear();
            logits[After(batch.Tokens[row])] = 5;
        }
    }

    public Span<float> Logits(int row) => _logits.AsSpan(row * vocabulary, vocabulary);
}
