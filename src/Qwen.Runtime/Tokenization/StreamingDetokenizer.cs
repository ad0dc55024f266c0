using System.Text;

namespace Qwen.Runtime.Tokenization;

/// <summary>Turns tokens into text one at a time, and never gives out part of a character: what may still become one waits.</summary>
/// <remarks>Put together, the pieces are the text that decoding all tokens at once gives: bytes that are no UTF-8 become U+FFFD.</remarks>
/// <param name="tokenizer">The tokenizer.</param>
/// <param name="skipControl">Leaves control tokens out.</param>
public sealed class StreamingDetokenizer(QwenTokenizer tokenizer, bool skipControl = true)
{
    private readonly Decoder _decoder = Encoding.UTF8.GetDecoder();
    private char[] _chars = new char[64];

    /// <summary>Adds a token and returns the text that is complete with it.</summary>
    /// <param name="id">Any id of the model: those beyond the tokenizer's (rows that only pad the embedding) have no text.</param>
    public string Append(int id) =>
        id >= tokenizer.VocabularySize || (skipControl && tokenizer.IsControl(id)) ? "" : Decode(tokenizer.GetBytes(id), flush: false);

    /// <summary>Ends the text: what waits becomes U+FFFD.</summary>
    public string Flush() => Decode([], flush: true);

    private string Decode(ReadOnlySpan<byte> bytes, bool flush)
    {
        int most = Encoding.UTF8.GetMaxCharCount(bytes.Length);
        if (_chars.Length < most)
            _chars = new char[most];
        int count = _decoder.GetChars(bytes, _chars, flush);
        return count == 0 ? "" : new string(_chars, 0, count);
    }
}
