using Microsoft.Extensions.AI;
using Microsoft.Extensions.DependencyInjection;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Tests;

public sealed class ServiceCollectionTests
{
    [Fact]
    public async Task AddQwen_GivesOneEngine_AndAChatClientOverIt_DisposedWithTheContainer()
    {
        QwenEngine engine;
        await using (ServiceProvider services = new ServiceCollection().AddQwen(options: new EngineOptions { MaxModelLength = 128, Threads = 1 }).BuildServiceProvider())
        {
            var client = services.GetRequiredService<IChatClient>();
            engine = services.GetRequiredService<QwenEngine>();

            Assert.Same(engine, client.GetService<QwenEngine>());
            Assert.Same(engine, services.GetRequiredService<QwenEngine>());
            Assert.Equal(128, engine.Model.MaxModelLength);
            Assert.Equal("42", (await client.GetResponseAsync(DemoEngine.Question)).Text);
        }

        await Assert.ThrowsAsync<ObjectDisposedException>(async () =>
        {
            await foreach (GenerationChunk _ in engine.ChatAsync("Hi"))
            {
            }
        });
    }

    [Fact]
    public void AddQwen_LoadsNothing_UntilItIsAskedFor()
    {
        using ServiceProvider services = new ServiceCollection().AddQwen("/no/such/model").BuildServiceProvider();

        Assert.Throws<FileNotFoundException>(services.GetRequiredService<IChatClient>);
    }
}
