using System.Text;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Tokenization;

/// <summary>Puts a tokenizer together from what its files hold, and checks that it is whole.</summary>
internal sealed class TokenizerBuilder(string file)
{
    private const int MostTokens = 1 << 22, MostTokenBytes = 1 << 16;

    private readonly Dictionary<string, int> _ids = new(180_000, StringComparer.Ordinal); // in the byte alphabet
    private readonly List<(string Left, string Right)> _merges = new(160_000);
    private readonly Dictionary<int, AddedToken> _added = [];

    public bool Normalizes { get; set; }

    public PreTokenizer PreTokenizer { get; set; } = PreTokenizer.Qwen2;

    /// <summary>Ids that must exist though nothing names them (padding of the embedding).</summary>
    public int LeastSize { get; set; }

    /// <summary>Texts of the tokens with a role, by the name of the role.</summary>
    public Dictionary<string, string> SpecialTokens { get; } = [];

    /// <summary>Adds a token, written in the byte alphabet.</summary>
    public void AddToken(string text, int id)
    {
        CheckId(id, text);
        if (!_ids.TryAdd(text, id))
            throw Error($"token '{text}' is there twice, as {_ids[text]} and {id}");
    }

    /// <summary>Adds a merge of two tokens; earlier ones come first.</summary>
    public void AddMerge(string left, string right) => _merges.Add((left, right));

    /// <summary>Adds a merge line: two tokens with a space between.</summary>
    public void AddMerge(ReadOnlySpan<char> line)
    {
        int space = line.IndexOf(' ');
        if (space <= 0 || space == line.Length - 1)
            throw Error($"merge {_merges.Count}: '{line}' is not two tokens with a space between");
        AddMerge(line[..space].ToString(), line[(space + 1)..].ToString());
    }

    /// <summary>Adds a token that is not made by merging.</summary>
    public void AddAdded(AddedToken token)
    {
        CheckId(token.Id, token.Text);
        if (token.Text.Length == 0)
            throw Error($"added token {token.Id} has no text");
        if (_added.TryGetValue(token.Id, out AddedToken other) && other != token)
            throw Error($"added token {token.Id} is both '{other.Text}' and '{token.Text}'");
        _added[token.Id] = token;
    }

    public QwenTokenizer Build()
    {
        int size = Math.Max(LeastSize, Math.Max(_ids.Count == 0 ? 0 : _ids.Values.Max(), _added.Count == 0 ? 0 : _added.Keys.Max()) + 1);
        var tokens = new byte[size][];
        foreach ((string text, int id) in _ids)
        {
            var bytes = new byte[text.Length];
            if (_added.ContainsKey(id))
                continue;
            if (tokens[id] is not null)
                throw Error($"two tokens have the id {id}");
            // Entries outside the alphabet are padding: no text gives them.
            tokens[id] = ByteAlphabet.TryDecode(text, bytes) ? bytes : Encoding.UTF8.GetBytes(text);
        }

        foreach (AddedToken token in _added.Values)
            tokens[token.Id] = Encoding.UTF8.GetBytes(token.Text);
        for (int id = 0; id < size; id++)
            tokens[id] ??= [];

        var byteTokens = new int[256];
        for (int b = 0; b < 256; b++)
        {
            if (!_ids.TryGetValue(ByteAlphabet.CharOf((byte)b).ToString(), out byteTokens[b]))
                throw Error($"there is no token for the byte 0x{b:x2}; it is no byte-level vocabulary");
        }

        var merges = new MergeTable(_merges.Count);
        for (int rank = 0; rank < _merges.Count; rank++)
        {
            (string left, string right) = _merges[rank];
            if (!_ids.TryGetValue(left, out int leftId) || !_ids.TryGetValue(right, out int rightId) || !_ids.TryGetValue(left + right, out int merged))
                throw Error($"merge {rank}: '{left}' and '{right}', or what they make, is no token");
            merges.Add(leftId, rightId, rank, merged);
        }

        return new QwenTokenizer(tokens, byteTokens, merges, [.. _added.Values], PreTokenizer, Normalizes) { SpecialTokens = SpecialTokens };
    }

    private void CheckId(int id, string text)
    {
        if ((uint)id >= MostTokens)
            throw Error($"token '{text}' has the id {id}, which is not between 0 and {MostTokens - 1}");
        if (text.Length > MostTokenBytes)
            throw Error($"token {id} has {text.Length} characters, the most is {MostTokenBytes}");
    }

    private ModelFormatException Error(string what) => new(file, what);
}
