using System.Globalization;
using System.Text;
using System.Text.Json;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Tokenization;

/// <summary>Reads the kinds of files that Qwen's tokenizer comes in.</summary>
internal static class TokenizerFiles
{
    // Qwen3's; Qwen2.5 has the same up to 151664.
    private static readonly string[] Qwen3Added =
    [
        "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>",
        "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>",
        "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>", "</think>",
    ];

    private const int FirstAdded = 151643;

    public static QwenTokenizer Load(string directory)
    {
        string json = Path.Combine(directory, "tokenizer.json"), vocabulary = Path.Combine(directory, "vocab.json"), tiktoken = Path.Combine(directory, "qwen.tiktoken");
        if (File.Exists(json))
            return FromTokenizerJson(json, File.ReadAllBytes(json), Path.Combine(directory, "tokenizer_config.json"));
        if (File.Exists(vocabulary))
            return FromVocabularyAndMerges(directory);
        if (File.Exists(tiktoken))
            return FromTiktoken(tiktoken);
        throw new ModelFormatException(directory, "holds no tokenizer: neither tokenizer.json, nor vocab.json and merges.txt, nor qwen.tiktoken");
    }

    /// <summary>Hugging Face tokenizers' own format; the special tokens are in tokenizer_config.json beside it.</summary>
    internal static QwenTokenizer FromTokenizerJson(string file, byte[] content, string? config = null) => Guarded(file, content, root =>
    {
        var builder = new TokenizerBuilder(file);
        ReadConfig(config, root => AddSpecialTokens(builder, config!, root));
        JsonElement model = Member(file, root, "model", JsonValueKind.Object);
        if (model.TryGetProperty("type", out JsonElement type) && type.ToString() != "BPE")
            throw new ModelFormatException(file, $"model.type: '{type}' is not supported; Qwen's is BPE");
        AddVocabulary(builder, file, Member(file, model, "vocab", JsonValueKind.Object));
        foreach (JsonElement merge in Member(file, model, "merges", JsonValueKind.Array).EnumerateArray())
        {
            if (merge.ValueKind == JsonValueKind.String)
                builder.AddMerge(merge.GetString());
            else if (merge.ValueKind == JsonValueKind.Array && merge.GetArrayLength() == 2 && merge[0].ValueKind == JsonValueKind.String && merge[1].ValueKind == JsonValueKind.String)
                builder.AddMerge(merge[0].GetString()!, merge[1].GetString()!);
            else
                throw new ModelFormatException(file, $"model.merges: {Short(merge)} is no pair of tokens");
        }

        if (root.TryGetProperty("added_tokens", out JsonElement added) && added.ValueKind == JsonValueKind.Array)
        {
            foreach (JsonElement token in added.EnumerateArray())
                builder.AddAdded(Added(file, token, Member(file, token, "id", JsonValueKind.Number)));
        }

        builder.Normalizes = Normalizes(file, root);
        builder.PreTokenizer = PreTokenizerOf(file, root);
        return builder.Build();
    });

    /// <summary>GPT-2's two files, with the added tokens in tokenizer_config.json; normalized as Hugging Face's Qwen2Tokenizer does.</summary>
    internal static QwenTokenizer FromVocabularyAndMerges(string directory)
    {
        string vocabulary = Path.Combine(directory, "vocab.json"), merges = Path.Combine(directory, "merges.txt"), config = Path.Combine(directory, "tokenizer_config.json");
        if (!File.Exists(merges))
            throw new ModelFormatException(merges, "is missing beside vocab.json");
        var builder = new TokenizerBuilder(vocabulary) { Normalizes = true };
        Guarded(vocabulary, File.ReadAllBytes(vocabulary), root =>
        {
            AddVocabulary(builder, vocabulary, root);
            return 0;
        });
        foreach (string line in File.ReadLines(merges))
        {
            if (line.Length > 0 && !line.StartsWith("#version", StringComparison.Ordinal))
                builder.AddMerge(line);
        }

        ReadConfig(config, root =>
        {
            AddSpecialTokens(builder, config, root);
            if (!root.TryGetProperty("added_tokens_decoder", out JsonElement added) || added.ValueKind != JsonValueKind.Object)
                return;
            foreach (JsonProperty token in added.EnumerateObject())
            {
                if (!int.TryParse(token.Name, NumberStyles.None, CultureInfo.InvariantCulture, out int id))
                    throw new ModelFormatException(config, $"added_tokens_decoder: '{token.Name}' is no token id");
                builder.AddAdded(Added(config, token.Value, id));
            }
        });
        return builder.Build();
    }

    /// <summary>First-generation Qwen's file: a line for each token, its bytes in base64 and its rank, which is its id and its order of merging.</summary>
    internal static QwenTokenizer FromTiktoken(string file)
    {
        var ranks = new Dictionary<string, int>(160_000, StringComparer.Ordinal); // bytes as Latin-1 text
        int number = 0;
        foreach (string line in File.ReadLines(file))
        {
            number++;
            if (line.Length == 0)
                continue;
            string[] parts = line.Split(' ');
            var bytes = new byte[parts[0].Length];
            if (parts.Length != 2 || !Convert.TryFromBase64String(parts[0], bytes, out int length) || length == 0
                || !int.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out int rank))
                throw new ModelFormatException(file, $"line {number}: '{(line.Length <= 80 ? line : line[..80])}' is not base64 and a rank");
            if (!ranks.TryAdd(Encoding.Latin1.GetString(bytes, 0, length), rank))
                throw new ModelFormatException(file, $"line {number}: the token is there twice");
        }

        var builder = new TokenizerBuilder(file);
        foreach ((string bytes, int rank) in ranks)
            builder.AddToken(InAlphabet(bytes), rank);
        foreach ((string bytes, int rank) in ranks.OrderBy(t => t.Value))
        {
            if (bytes.Length > 1 && Split(bytes, rank, ranks) is { } at)
                builder.AddMerge(InAlphabet(bytes[..at]), InAlphabet(bytes[at..]));
        }

        string[] control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", .. Enumerable.Range(0, 205).Select(i => $"<|extra_{i}|>")];
        int first = ranks.Count == 0 ? 0 : ranks.Values.Max() + 1;
        for (int i = 0; i < control.Length; i++)
            builder.AddAdded(new AddedToken(first + i, control[i], IsControl: true));
        return builder.Build();
    }

    public static QwenTokenizer ByteLevel(int vocabularySize)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(vocabularySize, 256);
        var builder = new TokenizerBuilder("(byte level)") { LeastSize = vocabularySize };
        for (int b = 0; b < 256; b++)
            builder.AddToken(ByteAlphabet.CharOf((byte)b).ToString(), b);
        for (int i = 0; i < Qwen3Added.Length && FirstAdded + i < vocabularySize; i++)
            builder.AddAdded(new AddedToken(FirstAdded + i, Qwen3Added[i], IsControl: Qwen3Added[i].StartsWith("<|", StringComparison.Ordinal)));
        return builder.Build();
    }

    /// <summary>GGUF's metadata: tokens in the byte alphabet, their types, the merges, and the name of the pre-tokenizer. Nothing is normalized.</summary>
    public static QwenTokenizer FromGguf(GgufMetadata metadata, string file)
    {
        const int control = 3, userDefined = 4;
        string model = metadata.GetString("tokenizer.ggml.model");
        if (model != "gpt2")
            throw new ModelFormatException(file, $"tokenizer.ggml.model: '{model}' is not supported; Qwen's is gpt2");
        string pre = metadata.TryGetString("tokenizer.ggml.pre", out string? name) ? name : "qwen2";
        GgufStringArray tokens = metadata.GetStrings("tokenizer.ggml.tokens"), merges = metadata.GetStrings("tokenizer.ggml.merges");
        int[] types = metadata.TryGetInt32s("tokenizer.ggml.token_type", out int[]? given) ? given : new int[tokens.Count];
        if (types.Length != tokens.Count)
            throw new ModelFormatException(file, $"tokenizer.ggml.token_type has {types.Length} entries, tokenizer.ggml.tokens {tokens.Count}");
        var builder = new TokenizerBuilder(file)
        {
            LeastSize = tokens.Count,
            PreTokenizer = pre switch
            {
                "qwen2" or "deepseek-r1-qwen" => PreTokenizer.Qwen2,
                "qwen35" => PreTokenizer.Qwen35,
                _ => throw new ModelFormatException(file, $"tokenizer.ggml.pre: '{pre}' is not supported; Qwen's are qwen2 and qwen35"),
            },
        };
        for (int id = 0; id < tokens.Count; id++)
        {
            string text = Encoding.UTF8.GetString(tokens[id]);
            if (types[id] is control or userDefined)
                builder.AddAdded(new AddedToken(id, text, types[id] == control));
            else
                builder.AddToken(text, id);
        }

        for (int rank = 0; rank < merges.Count; rank++)
            builder.AddMerge(Encoding.UTF8.GetString(merges[rank]));
        foreach ((string role, string key) in (ReadOnlySpan<(string, string)>)[("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")])
        {
            if (metadata.TryGetUInt32($"tokenizer.ggml.{key}_token_id", out uint id) && id < tokens.Count)
                builder.SpecialTokens[role] = Encoding.UTF8.GetString(tokens[(int)id]);
        }

        return builder.Build();
    }

    /// <summary>Where tiktoken's merging of lower ranks leaves a token in two parts: the pair that makes it.</summary>
    private static int? Split(string bytes, int rank, Dictionary<string, int> ranks)
    {
        var ends = new List<int>(bytes.Length + 1);
        for (int i = 0; i <= bytes.Length; i++)
            ends.Add(i);
        while (ends.Count > 3)
        {
            int best = -1, bestRank = rank;
            for (int i = 0; i + 2 < ends.Count; i++)
            {
                if (ranks.TryGetValue(bytes[ends[i]..ends[i + 2]], out int r) && r < bestRank)
                    (best, bestRank) = (i, r);
            }

            if (best < 0)
                return null; // no pair makes it: such a token is never the result of merging
            ends.RemoveAt(best + 1);
        }

        return ends[1];
    }

    private static string InAlphabet(string latin1) => string.Create(latin1.Length, latin1, (chars, text) =>
    {
        for (int i = 0; i < chars.Length; i++)
            chars[i] = ByteAlphabet.CharOf((byte)text[i]);
    });

    private static void AddVocabulary(TokenizerBuilder builder, string file, JsonElement vocabulary)
    {
        if (vocabulary.ValueKind != JsonValueKind.Object)
            throw new ModelFormatException(file, "its vocabulary is no JSON object");
        foreach (JsonProperty token in vocabulary.EnumerateObject())
            builder.AddToken(token.Name, Id(file, token.Name, token.Value));
    }

    /// <summary>Reads tokenizer_config.json, where there is one.</summary>
    private static void ReadConfig(string? file, Action<JsonElement> read)
    {
        if (!File.Exists(file))
            return;
        Guarded(file, File.ReadAllBytes(file), root =>
        {
            if (root.ValueKind == JsonValueKind.Object)
                read(root);
            return 0;
        });
    }

    /// <summary>A special token is written as its text, or as an object with its <c>content</c>.</summary>
    private static void AddSpecialTokens(TokenizerBuilder builder, string file, JsonElement config)
    {
        foreach (string role in (ReadOnlySpan<string>)["bos_token", "eos_token", "pad_token", "unk_token"])
        {
            if (!config.TryGetProperty(role, out JsonElement token) || token.ValueKind == JsonValueKind.Null)
                continue;
            builder.SpecialTokens[role] = (token.ValueKind == JsonValueKind.Object ? Member(file, token, "content", JsonValueKind.String) : Member(file, config, role, JsonValueKind.String)).GetString()!;
        }
    }

    private static AddedToken Added(string file, JsonElement token, JsonElement id) => Added(file, token, Id(file, "added_tokens", id));

    private static AddedToken Added(string file, JsonElement token, int id)
    {
        if (token.ValueKind != JsonValueKind.Object)
            throw new ModelFormatException(file, $"added token {id} is no JSON object");
        return new AddedToken(id, Member(file, token, "content", JsonValueKind.String).GetString()!, token.TryGetProperty("special", out JsonElement special) && special.ValueKind == JsonValueKind.True);
    }

    private static int Id(string file, string name, JsonElement id) => id.ValueKind == JsonValueKind.Number && id.TryGetInt32(out int value)
        ? value
        : throw new ModelFormatException(file, $"{name}: {Short(id)} is no token id");

    private static bool Normalizes(string file, JsonElement root)
    {
        if (!root.TryGetProperty("normalizer", out JsonElement normalizer) || normalizer.ValueKind == JsonValueKind.Null)
            return false;
        string? type = normalizer.ValueKind == JsonValueKind.Object && normalizer.TryGetProperty("type", out JsonElement t) ? t.ToString() : null;
        return type == "NFC" ? true : throw new ModelFormatException(file, $"normalizer: {Short(normalizer)} is not supported; Qwen's is NFC");
    }

    private static PreTokenizer PreTokenizerOf(string file, JsonElement root)
    {
        JsonElement pre = Member(file, root, "pre_tokenizer", JsonValueKind.Object);
        IEnumerable<JsonElement> steps = pre.TryGetProperty("pretokenizers", out JsonElement list) && list.ValueKind == JsonValueKind.Array ? list.EnumerateArray() : [pre];
        foreach (JsonElement step in steps)
        {
            if (step.ValueKind != JsonValueKind.Object || !step.TryGetProperty("pattern", out JsonElement pattern) || pattern.ValueKind != JsonValueKind.Object || !pattern.TryGetProperty("Regex", out JsonElement regex))
                continue;
            return regex.ToString() switch
            {
                PreTokenizer.Qwen2Pattern => PreTokenizer.Qwen2,
                PreTokenizer.Qwen35Pattern => PreTokenizer.Qwen35,
                _ => throw new ModelFormatException(file, $"pre_tokenizer: the pattern {Short(regex)} is not one of Qwen's"),
            };
        }

        throw new ModelFormatException(file, "pre_tokenizer: there is no pattern to split by");
    }

    private static JsonElement Member(string file, JsonElement parent, string name, JsonValueKind kind) =>
        parent.ValueKind == JsonValueKind.Object && parent.TryGetProperty(name, out JsonElement value) && value.ValueKind == kind
            ? value
            : throw new ModelFormatException(file, $"{name} is missing, or no {kind}");

    private static string Short(JsonElement element)
    {
        string text = element.GetRawText();
        return text.Length <= 120 ? text : text[..120] + "...";
    }

    private static T Guarded<T>(string file, byte[] content, Func<JsonElement, T> read)
    {
        try
        {
            using JsonDocument json = JsonDocument.Parse(content.AsMemory(content.AsSpan().StartsWith(Encoding.UTF8.Preamble) ? 3 : 0));
            return read(json.RootElement);
        }
        catch (JsonException e)
        {
            throw new ModelFormatException(file, $"is not valid JSON: {e.Message}");
        }
        catch (InvalidOperationException e) // a string that is no valid Unicode, found when it is read
        {
            throw new ModelFormatException(file, $"is not valid JSON: {e.Message}");
        }
    }
}
