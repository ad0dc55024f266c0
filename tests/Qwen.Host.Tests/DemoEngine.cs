using Qwen.Runtime.Engine;

namespace Qwen.Host.Tests;

/// <summary>The demo model, loaded once for all tests that share it.</summary>
public sealed class DemoEngine : IAsyncLifetime
{
    public const string Collection = "demo engine";

    public const string Question = "What is 12 + 30?";

    public QwenEngine Engine { get; private set; } = null!;

    public async Task InitializeAsync() => Engine = await QwenEngine.LoadAsync();

    public async Task DisposeAsync() => await Engine.DisposeAsync();

    /// <summary>Waits until nothing runs or waits in an engine: a sequence that was let go is freed before the next step.</summary>
    public static async Task WaitUntilIdleAsync(QwenEngine engine)
    {
        await WaitUntilAsync(engine, s => s.Running == 0 && s.Waiting == 0);
        Assert.Equal(engine.Statistics.TotalBlocks, engine.Statistics.FreeBlocks);
    }

    /// <summary>Waits for a state that must come.</summary>
    public static async Task WaitUntilAsync(QwenEngine engine, Predicate<EngineStatistics> isThere)
    {
        using var patience = new CancellationTokenSource(TimeSpan.FromSeconds(60));
        while (!isThere(engine.Statistics))
            await Task.Delay(5, patience.Token);
    }
}

[CollectionDefinition(DemoEngine.Collection)]
public sealed class DemoEngineCollection : ICollectionFixture<DemoEngine>;
