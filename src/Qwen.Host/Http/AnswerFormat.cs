using System.Globalization;
using System.Text;
using System.Text.Json;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Tokenization;

namespace Qwen.Host.Http;

/// <summary>How one of OpenAI's two APIs writes an answer, whole or in pieces. What both have in common is here.</summary>
/// <param name="idPrefix">Of the answer's id.</param>
/// <param name="modelName">The model's name in the API.</param>
/// <param name="tokenizer">For the tokens of log-probabilities.</param>
internal abstract class AnswerFormat(string idPrefix, string modelName, QwenTokenizer tokenizer)
{
    private readonly string _id = $"{idPrefix}-{Guid.NewGuid():N}";
    private readonly long _created = DateTimeOffset.UtcNow.ToUnixTimeSeconds();

    /// <summary>Every event of a stream names the usage: null but in the last.</summary>
    public bool IncludeUsage { get; init; }

    /// <summary>Each choice has the ids of its tokens.</summary>
    public bool IncludeTokenIds { get; init; }

    /// <summary><c>object</c> of a whole answer.</summary>
    protected abstract string Kind { get; }

    /// <summary><c>object</c> of a piece.</summary>
    protected abstract string PieceKind { get; }

    /// <summary>Writes the whole answer.</summary>
    public void WriteWhole(Utf8JsonWriter json, IReadOnlyList<WholeAnswer> answers, Usage usage)
    {
        WriteHead(json, Kind);
        json.WriteStartArray("choices");
        for (int i = 0; i < answers.Count; i++)
        {
            WholeAnswer answer = answers[i];
            WriteChoice(json, i, answer.Tokens, answer.Reason, () => WriteWholeChoice(json, i, answer));
        }

        json.WriteEndArray();
        WriteTail(json, answers);
        WriteUsage(json, usage);
    }

    /// <summary>A piece comes before the answer's first token.</summary>
    public abstract bool HasOpening(int index);

    /// <summary>Writes that piece.</summary>
    public void WriteOpening(Utf8JsonWriter json, int index) => WritePiece(json, index, [], null, () => WriteOpeningChoice(json, index));

    /// <summary>Takes the next piece of an answer; whether it has something in it: its text may wait for the rest of a character or of a stop text.</summary>
    public virtual bool Take(int index, GenerationChunk chunk) => chunk.Text.Length > 0 || HasMore(chunk);

    /// <summary>Writes a piece.</summary>
    public void WritePiece(Utf8JsonWriter json, int index, GenerationChunk chunk) =>
        WritePiece(json, index, chunk.Tokens, chunk.FinishReason, () => WritePieceChoice(json, index, chunk));

    /// <summary>Writes the last event of a stream that was asked for its usage.</summary>
    public void WriteUsagePiece(Utf8JsonWriter json, Usage usage)
    {
        WriteHead(json, PieceKind);
        json.WriteStartArray("choices");
        json.WriteEndArray();
        WriteUsage(json, usage);
    }

    /// <summary>Writes the members of a choice between its index and its finish reason.</summary>
    protected abstract void WriteWholeChoice(Utf8JsonWriter json, int index, WholeAnswer answer);

    /// <inheritdoc cref="WriteWholeChoice"/>
    protected abstract void WritePieceChoice(Utf8JsonWriter json, int index, GenerationChunk chunk);

    /// <inheritdoc cref="WriteWholeChoice"/>
    protected abstract void WriteOpeningChoice(Utf8JsonWriter json, int index);

    /// <summary>Writes what comes after the choices of whole answers, if anything.</summary>
    protected virtual void WriteTail(Utf8JsonWriter json, IReadOnlyList<WholeAnswer> answers)
    {
    }

    /// <summary>A piece has something in it beside its text.</summary>
    protected bool HasMore(GenerationChunk chunk) => chunk.FinishReason is not null || HasLogprobs(chunk.Tokens) || (IncludeTokenIds && chunk.Tokens.Count > 0);

    /// <summary>Writes <c>prompt_logprobs</c> in vLLM's form: for each token of the prompt an object by token ids, null for the first. A rank is only known among the likeliest.</summary>
    protected void WritePromptLogprobs(Utf8JsonWriter json, IReadOnlyList<int> prompt, IReadOnlyList<TokenLogprobs?> logprobs)
    {
        json.WriteStartArray("prompt_logprobs");
        for (int i = 0; i < logprobs.Count; i++)
        {
            if (logprobs[i] is not { } at)
            {
                json.WriteNullValue();
                continue;
            }

            json.WriteStartObject();
            if (at.Top.All(t => t.Id != prompt[i]))
                Write(prompt[i], at.Logprob, null);
            for (int rank = 0; rank < at.Top.Count; rank++)
                Write(at.Top[rank].Id, at.Top[rank].Logprob, rank + 1);
            json.WriteEndObject();
        }

        json.WriteEndArray();

        void Write(int id, double logprob, int? rank)
        {
            json.WriteStartObject(id.ToString(CultureInfo.InvariantCulture));
            json.WriteNumber("logprob", Finite(logprob));
            if (rank is { } known)
                json.WriteNumber("rank", known);
            else
                json.WriteNull("rank");
            json.WriteString("decoded_token", Encoding.UTF8.GetString(Bytes(id)));
            json.WriteEndObject();
        }
    }

    /// <summary>The bytes of a token; none for the rows of the embedding that pad it beyond the vocabulary.</summary>
    protected ReadOnlySpan<byte> Bytes(int id) => id < tokenizer.VocabularySize ? tokenizer.GetBytes(id) : [];

    /// <summary>A log-probability as JSON can write it: that of a banned token is minus infinity.</summary>
    protected static double Finite(double logprob) => Math.Max(logprob, -9999);

    /// <summary>The tokens come with log-probabilities.</summary>
    protected static bool HasLogprobs(IReadOnlyList<GeneratedToken> tokens) => tokens.Count > 0 && tokens[0].Logprobs is not null;

    private void WritePiece(Utf8JsonWriter json, int index, IReadOnlyList<GeneratedToken> tokens, FinishReason? reason, Action members)
    {
        WriteHead(json, PieceKind);
        json.WriteStartArray("choices");
        WriteChoice(json, index, tokens, reason, members);
        json.WriteEndArray();
        if (IncludeUsage)
            json.WriteNull("usage");
    }

    /// <summary>An answer's end, in OpenAI's words.</summary>
    protected virtual string Reason(int index, FinishReason reason) => reason switch
    {
        FinishReason.Stop => "stop",
        FinishReason.Length => "length",
        _ => throw new InvalidOperationException($"An answer that was read to its end can't have ended by {reason}."),
    };

    private void WriteChoice(Utf8JsonWriter json, int index, IReadOnlyList<GeneratedToken> tokens, FinishReason? reason, Action members)
    {
        json.WriteStartObject();
        json.WriteNumber("index", index);
        members();
        if (IncludeTokenIds)
        {
            json.WriteStartArray("token_ids");
            foreach (GeneratedToken token in tokens)
                json.WriteNumberValue(token.Id);
            json.WriteEndArray();
        }

        json.WriteString("finish_reason", reason is { } end ? Reason(index, end) : null);
        json.WriteEndObject();
    }

    private static void WriteUsage(Utf8JsonWriter json, Usage usage)
    {
        json.WriteStartObject("usage");
        json.WriteNumber("prompt_tokens", usage.PromptTokens);
        json.WriteNumber("completion_tokens", usage.CompletionTokens);
        json.WriteNumber("total_tokens", usage.TotalTokens);
        json.WriteStartObject("prompt_tokens_details");
        json.WriteNumber("cached_tokens", usage.CachedTokens);
        json.WriteEndObject();
        json.WriteEndObject();
    }

    private void WriteHead(Utf8JsonWriter json, string kind)
    {
        json.WriteString("id", _id);
        json.WriteString("object", kind);
        json.WriteNumber("created", _created);
        json.WriteString("model", modelName);
    }
}

/// <summary>An answer put together from its pieces.</summary>
internal sealed class WholeAnswer
{
    private readonly StringBuilder _text = new();
    private readonly List<GeneratedToken> _tokens = [];

    public string Text => _text.ToString();

    public IReadOnlyList<GeneratedToken> Tokens => _tokens;

    public FinishReason? Reason { get; private set; }

    public IReadOnlyList<TokenLogprobs?>? PromptLogprobs { get; private set; }

    public void Add(GenerationChunk chunk)
    {
        _text.Append(chunk.Text);
        _tokens.AddRange(chunk.Tokens);
        Reason = chunk.FinishReason;
        PromptLogprobs ??= chunk.PromptLogprobs;
    }
}
