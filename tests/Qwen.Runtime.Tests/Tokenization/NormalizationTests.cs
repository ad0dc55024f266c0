using System.Text.Json;
using Qwen.Runtime.Tokenization;

namespace Qwen.Runtime.Tests.Tokenization;

public sealed class NormalizationTests
{
    /// <summary>600 random strings of characters that compose, decompose and reorder, with what Python's unicodedata makes of them.</summary>
    [Fact]
    public void ToNfc_EqualsPythons()
    {
        string path = Path.Combine(Repository.Root, "tests", "Qwen.Runtime.Tests", "Tokenization", "nfc.jsonl");
        foreach (string line in File.ReadLines(path))
        {
            using JsonDocument json = JsonDocument.Parse(line);
            string text = json.RootElement.GetProperty("text").GetString()!, nfc = json.RootElement.GetProperty("nfc").GetString()!;
            Assert.True(nfc == Normalization.ToNfc(text), line);
            Assert.True(Normalization.MayChange(text) || text == nfc, line);
            Assert.Equal(nfc, Normalization.ToNfc(nfc));
        }
    }

    [Theory]
    [InlineData("plain ascii")]
    [InlineData("déjà vu, größer, 中文, русский, 日本語, 한국어")]
    public void MayChange_IsFalse_ForOrdinaryText(string text) => Assert.False(Normalization.MayChange(text));

    [Fact]
    public void ToNfc_TakesLongRunsOfMarks()
    {
        string marks = string.Concat(Enumerable.Range(0, 100_000).Select(i => i % 2 == 0 ? '\u0301' : '\u0323'));
        Assert.Equal(100_000, Normalization.ToNfc("a" + marks).Length); // a and the first dot below, which sorts first, are one
    }
}
