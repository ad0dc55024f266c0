using Qwen.Runtime.Engine;

namespace Qwen.Runtime.Tests.Engine;

/// <summary>One engine on the demo model for the tests that need no options of their own.</summary>
public sealed class EngineFixture : IDisposable
{
    public QwenEngine Engine { get; } = QwenEngine.Load(Repository.DemoModel, new EngineOptions { Threads = 2 });

    public void Dispose() => Engine.Dispose();

    public static async Task<(string Text, GenerationChunk Last, List<GeneratedToken> Tokens)> CollectAsync(IAsyncEnumerable<GenerationChunk> answer)
    {
        string text = "";
        var tokens = new List<GeneratedToken>();
        GenerationChunk? last = null;
        await foreach (GenerationChunk chunk in answer)
        {
            Assert.Null(last?.FinishReason);
            text += chunk.Text;
            tokens.AddRange(chunk.Tokens);
            last = chunk;
        }

        Assert.NotNull(last?.FinishReason);
        return (text, last, tokens);
    }
}
