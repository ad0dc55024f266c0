using System.Text;

namespace Qwen.Runtime.Tokenization;

/// <summary>Qwen's byte-level BPE tokenizer. Safe for use from many threads; method names follow Microsoft.ML.Tokenizers.</summary>
public sealed class QwenTokenizer
{
    private readonly byte[] _bytes; // of all tokens, one after the other
    private readonly int[] _offsets; // of token i: _offsets[i] .. _offsets[i + 1]
    private readonly int[] _byteTokens;
    private readonly MergeTable _merges;
    private readonly PreTokenizer _preTokenizer;
    private readonly bool _normalizes;
    private readonly Dictionary<string, AddedToken> _addedByText = new(StringComparer.Ordinal);
    private readonly HashSet<int> _control = [];
    private readonly AddedTokenMatcher? _userDefined, _all;
    private Scratch? _idle; // one scratch waits for the next call; a second caller at the same time makes its own

    /// <summary>Made by <see cref="TokenizerFiles"/>.</summary>
    internal QwenTokenizer(byte[][] tokens, int[] byteTokens, MergeTable merges, IReadOnlyList<AddedToken> added, PreTokenizer preTokenizer, bool normalizes)
    {
        _offsets = new int[tokens.Length + 1];
        for (int i = 0; i < tokens.Length; i++)
            _offsets[i + 1] = checked(_offsets[i] + tokens[i].Length);
        _bytes = new byte[_offsets[^1]];
        for (int i = 0; i < tokens.Length; i++)
            tokens[i].CopyTo(_bytes, _offsets[i]);
        _byteTokens = byteTokens;
        _merges = merges;
        _preTokenizer = preTokenizer;
        _normalizes = normalizes;
        AddedTokens = [.. added.OrderBy(t => t.Id)];
        foreach (AddedToken token in AddedTokens)
        {
            _addedByText[token.Text] = token;
            if (token.IsControl)
                _control.Add(token.Id);
        }

        AddedToken[] userDefined = [.. AddedTokens.Where(t => !t.IsControl)];
        _userDefined = userDefined.Length > 0 ? new AddedTokenMatcher(userDefined) : null;
        _all = AddedTokens.Count > 0 ? new AddedTokenMatcher(AddedTokens) : null;
    }

    /// <summary>Ids go from 0 to below this.</summary>
    public int VocabularySize => _offsets.Length - 1;

    /// <summary>Tokens that are not made by merging, by id.</summary>
    public IReadOnlyList<AddedToken> AddedTokens { get; }

    /// <summary>The texts of <c>bos_token</c>, <c>eos_token</c>, <c>pad_token</c> and <c>unk_token</c>, as far as the model's files name them.</summary>
    public IReadOnlyDictionary<string, string> SpecialTokens { get; internal init; } = new Dictionary<string, string>();

    /// <summary>Text is brought to Unicode's form NFC before it is encoded.</summary>
    public bool Normalizes => _normalizes;

    /// <summary>Loads the tokenizer of a model directory: tokenizer.json, else vocab.json and merges.txt, else qwen.tiktoken.</summary>
    /// <exception cref="Formats.ModelFormatException">There is none, or it is damaged or of another kind.</exception>
    public static QwenTokenizer Load(string directory) => TokenizerFiles.Load(directory);

    /// <summary>A tokenizer of bytes and Qwen3's added tokens, for models made up in memory.</summary>
    /// <param name="vocabularySize">At least 256; the added tokens are there if their ids are below it.</param>
    public static QwenTokenizer ByteLevel(int vocabularySize) => TokenizerFiles.ByteLevel(vocabularySize);

    /// <summary>An added token by its text.</summary>
    public bool TryGetAddedToken(string text, out AddedToken token) => _addedByText.TryGetValue(text, out token);

    /// <summary>The id is a control token's.</summary>
    public bool IsControl(int id) => _control.Contains(id);

    /// <summary>The bytes a token stands for. They may be part of a UTF-8 character.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The id is outside the vocabulary.</exception>
    public ReadOnlySpan<byte> GetBytes(int id)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual((uint)id, (uint)VocabularySize, nameof(id));
        return _bytes.AsSpan(_offsets[id], _offsets[id + 1] - _offsets[id]);
    }

    /// <summary>The ids of a text.</summary>
    /// <param name="text">Any text; lone surrogates count as U+FFFD.</param>
    /// <param name="parsing">Which added tokens, written out in it, become tokens.</param>
    public IReadOnlyList<int> EncodeToIds(string text, AddedTokenParsing parsing = AddedTokenParsing.UserDefined)
    {
        var ids = new List<int>((text.Length / 4) + 1);
        Encode(text, parsing, ids);
        return ids;
    }

    /// <summary>The ids of a rendered prompt: control tokens where the template wrote them, the rest as text.</summary>
    /// <exception cref="ArgumentException">A control part is no added token.</exception>
    public IReadOnlyList<int> EncodeToIds(IReadOnlyList<PromptPart> prompt)
    {
        var ids = new List<int>();
        foreach (PromptPart part in prompt)
        {
            if (!part.IsControl)
                Encode(part.Text, AddedTokenParsing.UserDefined, ids);
            else if (TryGetAddedToken(part.Text, out AddedToken token))
                ids.Add(token.Id);
            else
                throw new ArgumentException($"'{part.Text}' is no added token.", nameof(prompt));
        }

        return ids;
    }

    /// <summary>The number of ids of a text.</summary>
    public int CountTokens(string text, AddedTokenParsing parsing = AddedTokenParsing.UserDefined) => Encode(text, [], parsing);

    /// <summary>Writes the ids of a text, as many as fit, and returns how many there are. Allocates nothing once warm (unless NFC changes the text).</summary>
    public int Encode(ReadOnlySpan<char> text, Span<int> destination, AddedTokenParsing parsing)
    {
        Scratch scratch = Interlocked.Exchange(ref _idle, null) ?? new Scratch(_byteTokens, _merges);
        try
        {
            if (_normalizes && Normalization.MayChange(text))
                text = Normalization.ToNfc(text.ToString());
            AddedTokenMatcher? matcher = parsing switch
            {
                AddedTokenParsing.None => null,
                AddedTokenParsing.UserDefined => _userDefined,
                _ => _all,
            };
            int count = 0, from = 0;
            while (from < text.Length)
            {
                AddedToken token = default;
                int found = matcher?.Find(text, from, out token) ?? text.Length;
                count += EncodeText(text[from..found], Rest(destination, count), scratch);
                from = found;
                if (found == text.Length)
                    break;
                if (count < destination.Length)
                    destination[count] = token.Id;
                count++;
                from += token.Text.Length;
            }

            return count;
        }
        finally
        {
            _idle = scratch;
        }
    }

    /// <summary>The text of ids; bytes that are no UTF-8 become U+FFFD.</summary>
    /// <param name="ids">Inside the vocabulary.</param>
    /// <param name="skipControl">Leaves control tokens out.</param>
    public string Decode(IEnumerable<int> ids, bool skipControl = false) => Encoding.UTF8.GetString(DecodeBytes(ids, skipControl));

    /// <summary>The bytes of ids.</summary>
    /// <param name="ids">Inside the vocabulary.</param>
    /// <param name="skipControl">Leaves control tokens out.</param>
    public byte[] DecodeBytes(IEnumerable<int> ids, bool skipControl = false)
    {
        using var bytes = new MemoryStream();
        foreach (int id in ids)
        {
            if (!skipControl || !IsControl(id))
                bytes.Write(GetBytes(id));
        }

        return bytes.ToArray();
    }

    private static Span<int> Rest(Span<int> destination, int used) => used < destination.Length ? destination[used..] : [];

    private void Encode(string text, AddedTokenParsing parsing, List<int> ids)
    {
        int[] buffer = System.Buffers.ArrayPool<int>.Shared.Rent((text.Length * 3) + 1); // a character has at most 3 bytes
        int count = Encode(text, buffer, parsing);
        if (count > buffer.Length)
            throw new InvalidOperationException($"A text of {text.Length} characters gave {count} tokens.");
        ids.AddRange(buffer.AsSpan(0, count));
        System.Buffers.ArrayPool<int>.Shared.Return(buffer);
    }

    private int EncodeText(ReadOnlySpan<char> text, Span<int> destination, Scratch scratch)
    {
        int count = 0;
        while (!text.IsEmpty)
        {
            int length = _preTokenizer.NextWord(text);
            ReadOnlySpan<byte> word = scratch.Utf8(text[..length]);
            count += scratch.Encoder.Encode(word, Rest(destination, count));
            text = text[length..];
        }

        return count;
    }

    private sealed class Scratch(int[] byteTokens, MergeTable merges)
    {
        private byte[] _utf8 = new byte[256];

        public BytePairEncoder Encoder { get; } = new(byteTokens, merges);

        public ReadOnlySpan<byte> Utf8(ReadOnlySpan<char> word)
        {
            if (_utf8.Length < word.Length * 3L)
                _utf8 = new byte[checked(word.Length * 3)];
            return _utf8.AsSpan(0, Encoding.UTF8.GetBytes(word, _utf8));
        }
    }
}
