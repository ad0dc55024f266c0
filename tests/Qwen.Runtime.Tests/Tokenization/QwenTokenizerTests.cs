using System.Diagnostics;
using System.Text;
using System.Text.Json.Nodes;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Tokenization;

namespace Qwen.Runtime.Tests.Tokenization;

public sealed class QwenTokenizerTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("qwen-tokenizer-").FullName;
    private readonly QwenTokenizer _demo = QwenTokenizer.Load(Repository.DemoModel);

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    /// <summary>tokenizer.json, vocab.json + merges.txt, GGUF metadata and a tiktoken file of the same vocabulary give the same ids.</summary>
    [Fact]
    public void AllKindsOfFiles_GiveTheSameIds()
    {
        JsonObject json = JsonNode.Parse(File.ReadAllBytes(Path.Combine(Repository.DemoModel, "tokenizer.json")))!.AsObject();
        JsonObject vocabulary = json["model"]!["vocab"]!.AsObject();
        string[] merges = [.. json["model"]!["merges"]!.AsArray().Select(m => (string)m!)];
        string hf = Directory.CreateDirectory(Path.Combine(_folder, "hf")).FullName, qwen1 = Directory.CreateDirectory(Path.Combine(_folder, "qwen1")).FullName, gguf = Path.Combine(_folder, "m.gguf");
        File.WriteAllText(Path.Combine(hf, "vocab.json"), vocabulary.ToJsonString());
        File.WriteAllLines(Path.Combine(hf, "merges.txt"), ["#version: 0.2", .. merges]);
        File.Copy(Path.Combine(Repository.DemoModel, "tokenizer_config.json"), Path.Combine(hf, "tokenizer_config.json"));
        File.WriteAllLines(Path.Combine(qwen1, "qwen.tiktoken"), vocabulary.Select(t => $"{Convert.ToBase64String(_demo.GetBytes((int)t.Value!))} {(int)t.Value!}"));
        string[] tokens = [.. vocabulary.OrderBy(t => (int)t.Value!).Select(t => t.Key), .. _demo.AddedTokens.Select(t => t.Text)];
        var writer = new GgufWriter();
        writer.Metadata["tokenizer.ggml.model"] = "gpt2";
        writer.Metadata["tokenizer.ggml.pre"] = "qwen2";
        writer.Metadata["tokenizer.ggml.tokens"] = tokens;
        writer.Metadata["tokenizer.ggml.merges"] = merges;
        writer.Metadata["tokenizer.ggml.eos_token_id"] = (uint)Id("<|im_end|>");
        writer.Metadata["tokenizer.ggml.padding_token_id"] = uint.MaxValue; // outside: as if it were not there
        writer.Metadata["tokenizer.ggml.token_type"] = tokens.Select((_, id) => id < vocabulary.Count ? 1 : _demo.IsControl(id) ? 3 : 4).ToArray();
        using (FileStream file = File.Create(gguf))
            writer.Write(file);
        using Checkpoint checkpoint = Checkpoint.Open(gguf);

        QwenTokenizer[] others = [QwenTokenizer.Load(hf), QwenTokenizer.Load(qwen1), TokenizerFiles.FromGguf(checkpoint.Metadata!, gguf)];
        Assert.Equal([true, false, false], others.Select(t => t.Normalizes));
        Assert.Equal(_demo.AddedTokens, others[0].AddedTokens);
        Assert.Equal(_demo.AddedTokens, others[2].AddedTokens);
        Assert.Equal(_demo.SpecialTokens, others[0].SpecialTokens);
        Assert.Equal(new Dictionary<string, string> { ["eos_token"] = "<|im_end|>" }, others[2].SpecialTokens);
        foreach (string line in File.ReadLines(Path.Combine(Repository.DemoModel, "evaluation.jsonl")).Take(200))
        {
            string text = (string)JsonNode.Parse(line)!["expected"]! + " größer 中文 'twas 12 + 30\n\n  x";
            foreach (QwenTokenizer other in others)
                Assert.Equal(_demo.EncodeToIds(text, AddedTokenParsing.None), other.EncodeToIds(text, AddedTokenParsing.None));
        }
    }

    [Fact]
    public void SpecialTokens_AreTextsOrObjects()
    {
        File.Copy(Path.Combine(Repository.DemoModel, "tokenizer.json"), Path.Combine(_folder, "tokenizer.json"));
        string config = Path.Combine(_folder, "tokenizer_config.json");
        File.WriteAllText(config, """{"bos_token": {"__type": "AddedToken", "content": "<|begin|>"}, "eos_token": "<|im_end|>", "unk_token": null}""");
        Assert.Equal(new Dictionary<string, string> { ["bos_token"] = "<|begin|>", ["eos_token"] = "<|im_end|>" }, QwenTokenizer.Load(_folder).SpecialTokens);
        File.WriteAllText(config, """{"bos_token": 7}""");
        Assert.Contains("bos_token is missing, or no String", Assert.Throws<ModelFormatException>(() => QwenTokenizer.Load(_folder)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void AddedTokens_AreTokens_OnlyWhereTheCallerSaysSo()
    {
        const string text = "a<think>b<|im_end|>c";
        int think = Id("<think>"), end = Id("<|im_end|>");
        Assert.Equal([false, false], Has(AddedTokenParsing.None));
        Assert.Equal([true, false], Has(AddedTokenParsing.UserDefined));
        Assert.Equal([true, true], Has(AddedTokenParsing.All));
        Assert.All(Enum.GetValues<AddedTokenParsing>(), parsing => Assert.Equal(text, _demo.Decode(_demo.EncodeToIds(text, parsing))));
        Assert.Equal([end, .. _demo.EncodeToIds("x<|im_end|>", AddedTokenParsing.UserDefined)], _demo.EncodeToIds([new PromptPart("<|im_end|>", true), new PromptPart("x<|im_end|>", false)]));
        Assert.Equal("ac", _demo.Decode([Id("<|im_start|>"), .. _demo.EncodeToIds("a"), end, .. _demo.EncodeToIds("c")], skipControl: true));

        bool[] Has(AddedTokenParsing parsing) => [_demo.EncodeToIds(text, parsing).Contains(think), _demo.EncodeToIds(text, parsing).Contains(end)];
    }

    /// <summary>Any text comes back, its NFC form to be exact; lone surrogates come back as U+FFFD.</summary>
    [Fact]
    public void EncodeThenDecode_GivesTheTextBack()
    {
        for (int seed = 0; seed < 3000; seed++)
        {
            var random = new Random(seed);
            string text = string.Concat(Enumerable.Range(0, random.Next(60)).Select(_ => (char)(random.Next(3) == 0 ? random.Next(0x10000) : random.Next(0x250))));
            string valid = Encoding.UTF8.GetString(Encoding.UTF8.GetBytes(text));
            Assert.Equal(Normalization.ToNfc(valid), _demo.Decode(_demo.EncodeToIds(text)));
        }
    }

    [Fact]
    public void Stream_NeverGivesHalfACharacter_AndAddsUpToTheWhole()
    {
        for (int seed = 0; seed < 3000; seed++)
        {
            var random = new Random(seed);
            int[] ids = [.. Enumerable.Range(0, random.Next(30)).Select(_ => random.Next(3) == 0 ? random.Next(_demo.VocabularySize) : random.Next(256))];
            var stream = new StreamingDetokenizer(_demo, skipControl: false);
            string[] pieces = [.. ids.Select(stream.Append), stream.Flush()];
            Assert.Equal(_demo.Decode(ids), string.Concat(pieces));
            Assert.All(pieces, piece => Assert.True(piece.Length == 0 || (!char.IsHighSurrogate(piece[^1]) && !char.IsLowSurrogate(piece[0]))));
        }

        Assert.Equal("", new StreamingDetokenizer(_demo).Append(_demo.VocabularySize + 5)); // a row that pads the embedding
        var emoji = new StreamingDetokenizer(_demo);
        Assert.Equal(["", "", "", "🦙"], Encoding.UTF8.GetBytes("🦙").Select(b => emoji.Append(Enumerable.Range(0, 256).Single(id => _demo.GetBytes(id).SequenceEqual([b])))));
    }

    [Fact]
    public void Encode_IntoABuffer_AllocatesNothing_AndReportsWhatDidNotFit()
    {
        string text = string.Concat(File.ReadLines(Path.Combine(Repository.DemoModel, "evaluation.jsonl")).Take(50));
        var ids = new int[text.Length];
        int count = _demo.Encode(text, ids, AddedTokenParsing.UserDefined);

        // Once the runtime has put optimised code in its place; and a collection that another test brings about may empty the array pool.
        long least = long.MaxValue;
        for (var time = Stopwatch.StartNew(); least != 0 && time.Elapsed < TimeSpan.FromSeconds(30);)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            _demo.Encode(text, ids, AddedTokenParsing.UserDefined);
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }

        Assert.Equal(0, least);

        var few = new int[10];
        Assert.Equal(count, _demo.Encode(text, few, AddedTokenParsing.UserDefined));
        Assert.Equal(ids[..10], few);
        Assert.Equal(count, _demo.CountTokens(text));
    }

    [Theory]
    [InlineData('a', 1_000_000)]
    [InlineData(' ', 1_000_000)]
    [InlineData('\n', 500_000)]
    [InlineData('中', 300_000)]
    [InlineData('!', 1_000_000)]
    [InlineData('7', 300_000)]
    public void LongRunsOfOneCharacter_AreEncoded(char c, int count)
    {
        var text = new string(c, count);
        Assert.Equal(text, _demo.Decode(_demo.EncodeToIds(text)));
    }

    [Fact]
    public async Task Encode_FromManyThreads_GivesTheSameIds()
    {
        string[] texts = [.. File.ReadLines(Path.Combine(Repository.DemoModel, "evaluation.jsonl")).Take(100)];
        IReadOnlyList<int>[] expected = [.. texts.Select(t => _demo.EncodeToIds(t))];
        await Task.WhenAll(Enumerable.Range(0, 8).Select(_ => Task.Run(() =>
        {
            for (int i = 0; i < texts.Length; i++)
                Assert.Equal(expected[i], _demo.EncodeToIds(texts[i]));
        })));
    }

    [Fact]
    public void ByteLevel_HasBytesAndQwen3sAddedTokens()
    {
        QwenTokenizer tokenizer = QwenTokenizer.ByteLevel(151936);
        Assert.Equal(151936, tokenizer.VocabularySize);
        Assert.Equal((151645, true), (tokenizer.AddedTokens.Single(t => t.Text == "<|im_end|>").Id, tokenizer.IsControl(151645)));
        Assert.Equal("grüße", tokenizer.Decode(tokenizer.EncodeToIds("grüße")));
        Assert.Empty(QwenTokenizer.ByteLevel(300).AddedTokens);
    }

    [Theory]
    [InlineData("""{"model": 7}""", "model is missing")]
    [InlineData("""{"model": {"type": "WordPiece", "vocab": {}, "merges": []}}""", "'WordPiece' is not supported")]
    [InlineData("""{"model": {"vocab": {"a": -1}, "merges": []}}""", "has the id -1")]
    [InlineData("""{"model": {"vocab": {"a": 99999999}, "merges": []}}""", "has the id 99999999")]
    [InlineData("""{"model": {"vocab": {"a": "x"}, "merges": []}}""", "a: \"x\" is no token id")]
    [InlineData("""{"model": {"vocab": {}, "merges": [7]}}""", "7 is no pair of tokens")]
    [InlineData("""{"model": {"vocab": {}, "merges": ["ab"]}}""", "merge 0: 'ab' is not two tokens")]
    [InlineData("""{"model": {"vocab": {}, "merges": []}, "normalizer": {"type": "NFKC"}}""", "is not supported; Qwen's is NFC")]
    [InlineData("""{"model": {"vocab": {}, "merges": []}, "pre_tokenizer": {"pattern": {"Regex": "x"}}}""", "the pattern \"x\" is not one of Qwen's")]
    [InlineData("""{"model": {"vocab": {}, "merges": []}, "pre_tokenizer": {"pretokenizers": []}}""", "no pattern to split by")]
    [InlineData("{", "is not valid JSON")]
    public void BadFiles_AreRefused(string json, string message)
    {
        ModelFormatException error = Assert.Throws<ModelFormatException>(() => TokenizerFiles.FromTokenizerJson("tokenizer.json", Encoding.UTF8.GetBytes(json)));
        Assert.Contains("tokenizer.json: ", error.Message, StringComparison.Ordinal);
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void MutatedFiles_LoadOrAreRefused()
    {
        byte[] original = File.ReadAllBytes(Path.Combine(Repository.DemoModel, "tokenizer.json"));
        var random = new Random(5);
        int refused = 0;
        for (int i = 0; i < 1500; i++)
        {
            byte[] file = (byte[])original.Clone();
            for (int n = random.Next(1, 4); n > 0; n--)
                file[random.Next(file.Length)] = (byte)random.Next(256);
            try
            {
                QwenTokenizer tokenizer = TokenizerFiles.FromTokenizerJson("f", i % 10 == 0 ? file[..random.Next(file.Length)] : file);
                tokenizer.EncodeToIds("Hello, world! 123 <|im_end|>", AddedTokenParsing.All);
            }
            catch (ModelFormatException)
            {
                refused++;
            }
        }

        Assert.InRange(refused, 200, 1500);
    }

    private int Id(string text) => _demo.TryGetAddedToken(text, out AddedToken token) ? token.Id : throw new KeyNotFoundException(text);
}
