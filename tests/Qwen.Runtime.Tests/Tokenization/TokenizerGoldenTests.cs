using System.Globalization;
using System.Text.Json;
using Qwen.Runtime.Tokenization;

namespace Qwen.Runtime.Tests.Tokenization;

/// <summary>Every case of the golden tokenizations: text to ids, with and without NFC and added tokens, and ids to bytes.</summary>
public sealed class TokenizerGoldenTests
{
    [SkippableFact]
    public void Encode_EqualsEveryCase()
    {
        QwenTokenizer plain = Build(151668, normalizes: false), nfc = Build(151668, normalizes: true), qwen25 = Build(151664, normalizes: false);
        int cases = 0, variants = 0;
        foreach (JsonElement test in Lines("cases.jsonl"))
        {
            string text = test.GetProperty("text").GetString()!;
            AddedTokenParsing parsing = test.GetProperty("special").GetBoolean() ? AddedTokenParsing.All : AddedTokenParsing.UserDefined;
            Check("ids", plain, parsing);
            Check(test.TryGetProperty("ids_nfc", out _) ? "ids_nfc" : "ids", nfc, parsing);
            Check(test.TryGetProperty("ids_qwen25", out _) ? "ids_qwen25" : "ids", qwen25, parsing);
            if (test.TryGetProperty("ids_no_added", out _))
                Check("ids_no_added", plain, AddedTokenParsing.None);
            cases++;

            void Check(string name, QwenTokenizer tokenizer, AddedTokenParsing how)
            {
                variants++;
                int[] expected = [.. test.GetProperty(name).EnumerateArray().Select(e => e.GetInt32())];
                Assert.True(expected.AsSpan().SequenceEqual([.. tokenizer.EncodeToIds(text, how)]), $"{name} of {test.GetProperty("text").GetRawText()}: expected {string.Join(',', expected)}, got {string.Join(',', tokenizer.EncodeToIds(text, how))}");
                Assert.Equal(expected.Length, tokenizer.CountTokens(text, how));
            }
        }

        Assert.Equal((1724, true), (cases, variants >= 3 * 1724));
    }

    [SkippableFact]
    public void Encode_EqualsTiktoken_WhereLlamaCppDiffers()
    {
        QwenTokenizer tokenizer = Build(151668, normalizes: false);
        foreach (JsonElement test in Lines("disputed.jsonl"))
        {
            int[] expected = [.. test.GetProperty("ids_tiktoken").EnumerateArray().Select(e => e.GetInt32())];
            AddedTokenParsing parsing = test.GetProperty("special").GetBoolean() ? AddedTokenParsing.All : AddedTokenParsing.UserDefined;
            Assert.Equal(expected, tokenizer.EncodeToIds(test.GetProperty("text").GetString()!, parsing));
        }
    }

    [SkippableFact]
    public void DecodeBytes_EqualsEveryCase_AndStreamsWhole()
    {
        QwenTokenizer tokenizer = Build(151668, normalizes: false);
        int cases = 0;
        foreach (JsonElement test in Lines("decode.jsonl"))
        {
            int[] ids = [.. test.GetProperty("ids").EnumerateArray().Select(e => e.GetInt32())];
            Assert.Equal(test.GetProperty("bytes_b64").GetBytesFromBase64(), tokenizer.DecodeBytes(ids));
            var stream = new StreamingDetokenizer(tokenizer, skipControl: false);
            Assert.Equal(tokenizer.Decode(ids), string.Concat(ids.Select(stream.Append)) + stream.Flush());
            cases++;
        }

        Assert.Equal(463, cases);
    }

    private static QwenTokenizer Build(int lastAdded, bool normalizes)
    {
        var builder = new TokenizerBuilder("merges.txt") { Normalizes = normalizes };
        var tokens = new List<string>();
        for (int c = 33; c < 512 && tokens.Count < 256; c++)
        {
            if (c is (>= '!' and <= '~') or (>= 0xa1 and <= 0xac) or (>= 0xae and <= 0xff))
                tokens.Add(((char)c).ToString());
        }

        for (int c = 256; tokens.Count < 256; c++)
            tokens.Add(((char)c).ToString());
        foreach (string line in File.ReadLines(Repository.Golden("tokenizer", "merges.txt")))
        {
            if (line.Length == 0 || line.StartsWith("#version", StringComparison.Ordinal))
                continue;
            builder.AddMerge(line);
            tokens.Add(line.Remove(line.IndexOf(' ', StringComparison.Ordinal), 1));
        }

        for (int id = 0; id < tokens.Count; id++)
            builder.AddToken(tokens[id], id);
        using JsonDocument added = JsonDocument.Parse(File.ReadAllBytes(Repository.Golden("tokenizer", "added_tokens.json")));
        foreach (JsonProperty token in added.RootElement.EnumerateObject())
        {
            int id = int.Parse(token.Name, CultureInfo.InvariantCulture);
            if (id <= lastAdded)
                builder.AddAdded(new AddedToken(id, token.Value.GetString()!, token.Value.GetString()!.StartsWith("<|", StringComparison.Ordinal)));
        }

        return builder.Build();
    }

    private static IEnumerable<JsonElement> Lines(string file) =>
        File.ReadLines(Repository.Golden("tokenizer", file)).Where(l => l.Length > 0).Select(l => JsonDocument.Parse(l).RootElement);
}
