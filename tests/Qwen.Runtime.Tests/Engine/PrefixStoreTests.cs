using Qwen.Runtime.Backends;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

namespace Qwen.Runtime.Tests.Engine;

public sealed class PrefixStoreTests : IAsyncLifetime
{
    private static readonly EngineOptions Small = new() { Threads = 2, BlockSize = 8, MaxModelLength = 128, MaxSequences = 4, MaxBatchedTokens = 64 };
    private static readonly int[] Prefix = [.. Enumerable.Range(0, 100).Select(i => (i * 37) % 2000)];
    private static readonly SamplingOptions Options = new() { Temperature = 0.9, Seed = 3, MaxTokens = 12, Logprobs = 1, IgnoreEos = true };

    private readonly string _folder = Directory.CreateTempSubdirectory("qwen-prefix-").FullName;
    private QwenEngine _engine = null!;

    private string FilePath => Path.Combine(_folder, "prefix.kv");

    public async Task InitializeAsync() => _engine = await QwenEngine.LoadAsync(Repository.DemoModel, Small);

    public async Task DisposeAsync()
    {
        await _engine.DisposeAsync();
        Directory.Delete(_folder, recursive: true);
    }

    /// <summary>A hit gives the bits of a miss: pinned, restored from disk, or computed anew.</summary>
    [Theory]
    [InlineData(KvCacheType.F16)]
    [InlineData(KvCacheType.Int8)]
    public async Task Answers_AreTheSame_AfterPinning_AndAfterRestoring(KvCacheType type)
    {
        await using QwenEngine plain = await QwenEngine.LoadAsync(Repository.DemoModel, Small with { KvCacheType = type, EnablePrefixCaching = false });
        string expected = await AnswerAsync(plain, cached: 0);

        await using (QwenEngine engine = await QwenEngine.LoadAsync(Repository.DemoModel, Small with { KvCacheType = type }))
        {
            PinnedPrefix pinned = await engine.Prefixes.PinAsync(Prefix);
            Assert.Equal((100, 96), (pinned.Tokens, pinned.CachedTokens));
            Assert.Equal(expected, await AnswerAsync(engine, cached: 96));
            await engine.Prefixes.SaveAsync(pinned.Id, FilePath);
        }

        await using QwenEngine other = await QwenEngine.LoadAsync(Repository.DemoModel, Small with { KvCacheType = type });
        await other.Prefixes.RestoreAsync(FilePath);
        Assert.Equal(expected, await AnswerAsync(other, cached: 96));
        Assert.Single(Directory.GetFiles(_folder));
    }

    [Fact]
    public async Task APinnedPrefix_SurvivesABurst_UntilItIsDeleted()
    {
        PinnedPrefix pinned = await _engine.Prefixes.PinAsync(Prefix, new RequestOptions { CacheSalt = "a" });
        Assert.Equal([pinned], _engine.Prefixes.List());
        await BurstAsync();
        await AnswerAsync(_engine, cached: 0);
        await AnswerAsync(_engine, cached: 96, "a");

        Assert.True(await _engine.Prefixes.DeleteAsync(pinned.Id));
        Assert.False(await _engine.Prefixes.DeleteAsync(pinned.Id));
        Assert.Empty(_engine.Prefixes.List());
        await BurstAsync();
        await AnswerAsync(_engine, cached: 0, "a");
        Assert.Equal(_engine.Statistics.TotalBlocks, _engine.Statistics.FreeBlocks);

        async Task BurstAsync()
        {
            var random = new Random(1);
            for (int i = 0; i < 8; i++)
                await EngineFixture.CollectAsync(_engine.GenerateAsync([.. Enumerable.Range(0, 120).Select(_ => random.Next(2000))], new SamplingOptions { MaxTokens = 1 }));
        }
    }

    [Fact]
    public async Task PinnedPrefixes_LeaveRoomForTheLongestSequence()
    {
        Assert.Equal(64 - 16, _engine.Prefixes.MaxBlocks);
        for (int i = 0; i < 4; i++)
            await _engine.Prefixes.PinAsync([i, .. Prefix]);
        string message = (await Assert.ThrowsAsync<InvalidRequestException>(() => _engine.Prefixes.PinAsync([9, .. Prefix]))).Message;
        Assert.Contains("needs 12 more blocks; pinned prefixes hold 48 of the 48", message, StringComparison.Ordinal);
        await _engine.Prefixes.PinAsync([0, .. Prefix]); // held already
        await EngineFixture.CollectAsync(_engine.GenerateAsync([.. Enumerable.Range(0, 120)], Options with { MaxTokens = 8 }));

        Assert.Contains("7 tokens fills no block of 8", (await Assert.ThrowsAsync<InvalidRequestException>(() => _engine.Prefixes.PinAsync(Prefix[..7]))).Message, StringComparison.Ordinal);
        await Assert.ThrowsAsync<InvalidRequestException>(() => _engine.Prefixes.PinAsync(new int[128]));
        await Assert.ThrowsAsync<KeyNotFoundException>(() => _engine.Prefixes.SaveAsync("none", FilePath));
    }

    /// <summary>Whatever is wrong with a file, it is refused, and nothing of it stays in the cache.</summary>
    [Fact]
    public async Task DamagedFiles_AreRefused()
    {
        await _engine.Prefixes.SaveAsync((await _engine.Prefixes.PinAsync(Prefix)).Id, FilePath);
        byte[] good = await File.ReadAllBytesAsync(FilePath);
        await using QwenEngine fresh = await QwenEngine.LoadAsync(Repository.DemoModel, Small);
        var random = new Random(7);
        for (int i = 0; i < 60; i++)
        {
            byte[] bad = (byte[])good.Clone();
            if (i % 3 == 0)
                bad = bad[..random.Next(bad.Length)];
            else
                bad[i % 3 == 1 ? random.Next(400) : random.Next(bad.Length)] ^= (byte)(1 << random.Next(8));
            await File.WriteAllBytesAsync(FilePath, bad);
            await Assert.ThrowsAsync<InvalidDataException>(() => fresh.Prefixes.RestoreAsync(FilePath));
        }

        Assert.Empty(fresh.Prefixes.List());
        await AnswerAsync(fresh, cached: 0);
        Assert.Equal(fresh.Statistics.TotalBlocks, fresh.Statistics.FreeBlocks);

        await File.WriteAllBytesAsync(FilePath, good);
        await using QwenEngine another = await QwenEngine.LoadAsync(Repository.DemoModel, Small with { BlockSize = 4 });
        Assert.Contains("blocks of 8; this one has", (await Assert.ThrowsAsync<InvalidDataException>(() => another.Prefixes.RestoreAsync(FilePath))).Message, StringComparison.Ordinal);
    }

    private static async Task<string> AnswerAsync(QwenEngine engine, int cached, string? salt = null)
    {
        (string text, GenerationChunk last, List<GeneratedToken> tokens) = await EngineFixture.CollectAsync(engine.GenerateAsync([.. Prefix, 5, 6], Options, new RequestOptions { CacheSalt = salt }));
        Assert.Equal(cached, last.Usage.CachedTokens);
        return $"{text} {string.Join(' ', tokens.Select(t => $"{t.Id}:{t.Logprobs!.Logprob:R}"))}";
    }
}
