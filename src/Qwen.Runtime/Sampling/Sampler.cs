using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using Qwen.Cpu;

namespace Qwen.Runtime.Sampling;

/// <summary>Memory that samplers share, as only one samples at a time.</summary>
/// <param name="vocabulary">Logits of a row.</param>
public sealed class SamplerWorkspace(int vocabulary)
{
    internal float[] Weights { get; } = new float[vocabulary];

    internal float[] Raw { get; } = new float[vocabulary];

    internal ulong[] Keys { get; } = new ulong[vocabulary];
}

/// <summary>A token of the prompt or the answer.</summary>
/// <param name="Token">Its id.</param>
/// <param name="Times">How often it is in the answer.</param>
internal readonly record struct SeenToken(int Token, int Times);

/// <summary>What is added to a token's logit; <see cref="Ban"/> and less bans it.</summary>
internal readonly record struct TokenBias(int Token, float Bias)
{
    public const float Ban = -100;
}

/// <summary>Chooses the tokens of one answer. It owns the answer's random numbers and the counts that penalties need.</summary>
/// <remarks>
/// The order is vLLM's: penalties and bias, temperature, min-p, top-k, top-p. Nothing here depends on the machine: the same logits and
/// seed give the same token everywhere.
/// </remarks>
public sealed class Sampler
{
    private readonly SamplingParameters _parameters;
    private readonly TokenBias[] _biases, _earlyBiases; // after and before MinTokens
    private readonly List<SeenToken> _seen = []; // where there are penalties: the tokens of prompt and answer
    private readonly Dictionary<int, int>? _seenAt; // token -> where in the list
    private Xoshiro256 _random, _drafting;
    private int _generated;

    /// <summary>A sampler at the start of an answer.</summary>
    /// <param name="parameters">How to sample.</param>
    /// <param name="prompt">The prompt, for the repetition penalty.</param>
    /// <param name="endTokens">Tokens that would end the answer: not chosen before <see cref="SamplingParameters.MinTokens"/>.</param>
    public Sampler(SamplingParameters parameters, IEnumerable<int> prompt, IEnumerable<int> endTokens)
    {
        _parameters = parameters;
        _random = new Xoshiro256(parameters.Seed);
        _biases = [.. parameters.LogitBias.Select(b => new TokenBias(b.Key, b.Value))];
        int[] banned = parameters.MinTokens > 0 ? [.. endTokens.Distinct()] : [];
        _earlyBiases = banned.Length == 0 ? _biases : [.. _biases.Where(b => !banned.Contains(b.Token)), .. banned.Select(token => new TokenBias(token, TokenBias.Ban))];
        if (parameters.RepetitionPenalty == 1 && parameters.PresencePenalty == 0 && parameters.FrequencyPenalty == 0)
            return;
        _seenAt = [];
        foreach (int token in prompt)
        {
            if (_seenAt.TryAdd(token, _seen.Count))
                _seen.Add(new SeenToken(token, 0));
        }
    }

    /// <summary>How it samples.</summary>
    internal SamplingParameters Parameters => _parameters;

    /// <summary>Most tokens that penalties change, if so many more are in the answer.</summary>
    internal int MostSeen(int ahead) => _seenAt is null ? 0 : _seen.Count + ahead;

    /// <summary>Chooses a token.</summary>
    /// <param name="logits">The network's logits; changed.</param>
    /// <param name="workspace">Memory to work in.</param>
    /// <param name="logprobs">Log-probabilities, where the parameters ask for them.</param>
    /// <exception cref="NonFiniteLogitException">A logit is NaN or plus infinity, or all are minus infinity.</exception>
    public int Sample(Span<float> logits, SamplerWorkspace workspace, out TokenLogprobs? logprobs)
    {
        if (_parameters.Logprobs is not null)
            logits.CopyTo(workspace.Raw);
        Adjust(logits);
        CheckFinite(logits);
        int token = _parameters.Temperature == 0 ? TensorPrimitives.IndexOfMax(logits) : Draw(logits, ref _random, workspace);
        logprobs = _parameters.Logprobs is { } count ? TokenLogprobs.Of(workspace.Raw.AsSpan(0, logits.Length), token, count, workspace.Weights) : null;
        Note(token);
        return token;
    }

    /// <summary>Takes a token that a backend chose by the same rules, with the random number that <see cref="Uniform"/> gave for it.</summary>
    internal void Accept(int token)
    {
        if (_parameters.Temperature != 0)
            _random.NextDouble();
        Note(token);
    }

    /// <summary>The random number, in [0, 1), that chooses the next token, or one that comes so many later. Nothing is used up.</summary>
    internal double Uniform(int ahead)
    {
        if (_parameters.Temperature == 0)
            return 0;
        Xoshiro256 random = _random;
        for (int i = 0; i < ahead; i++)
            random.NextDouble();
        return random.NextDouble();
    }

    /// <summary>What is added to the logits of tokens, each token once, for the next token or one so many later.</summary>
    internal ReadOnlySpan<TokenBias> Biases(int ahead) => _generated + ahead < _parameters.MinTokens ? _earlyBiases : _biases;

    /// <summary>The tokens that penalties change, each once, if these come next in the answer.</summary>
    /// <param name="next">Tokens after the answer so far.</param>
    /// <param name="seen">Room for <see cref="MostSeen"/>.</param>
    /// <returns>How many there are.</returns>
    internal int WriteSeen(ReadOnlySpan<int> next, Span<SeenToken> seen)
    {
        if (_seenAt is null)
            return 0;
        CollectionsMarshal.AsSpan(_seen).CopyTo(seen);
        int count = _seen.Count;
        foreach (int token in next)
        {
            if (!_seenAt.TryGetValue(token, out int at))
            {
                for (at = _seen.Count; at < count && seen[at].Token != token; at++)
                    continue;
                if (at == count)
                    seen[count++] = new SeenToken(token, 0);
            }

            seen[at] = new SeenToken(token, seen[at].Times + 1);
        }

        return count;
    }

    /// <summary>Begins to draft what <see cref="Sample"/> will choose next.</summary>
    public void BeginDraft() => _drafting = _random;

    /// <summary>Drafts a further token from the logits of a smaller network.</summary>
    /// <remarks>
    /// With the filters and the very random numbers that will choose the token: where the small network has the large one's
    /// distribution, the guess comes true. Penalties are those of the answer without its drafts.
    /// </remarks>
    /// <param name="logits">The smaller network's; changed.</param>
    /// <param name="workspace">Memory to work in.</param>
    /// <exception cref="NonFiniteLogitException">A logit is NaN or plus infinity, or all are minus infinity.</exception>
    public int Draft(Span<float> logits, SamplerWorkspace workspace)
    {
        Adjust(logits);
        CheckFinite(logits);
        return _parameters.Temperature == 0 ? TensorPrimitives.IndexOfMax(logits) : Draw(logits, ref _drafting, workspace);
    }

    // The first NaN, else the largest: minus infinity is a token that can't be, unless all are.
    internal static void CheckFinite(ReadOnlySpan<float> logits)
    {
        int index = TensorPrimitives.IndexOfMax(logits);
        if (!float.IsFinite(logits[index]))
            throw new NonFiniteLogitException(index, logits[index]);
    }

    private void Adjust(Span<float> logits)
    {
        float repetition = _parameters.RepetitionPenalty;
        foreach ((int token, int times) in CollectionsMarshal.AsSpan(_seen))
        {
            ref float logit = ref logits[token];
            logit = logit > 0 ? logit / repetition : logit * repetition;
            if (times > 0)
                logit -= _parameters.PresencePenalty + (_parameters.FrequencyPenalty * times);
        }

        foreach ((int token, float bias) in Biases(ahead: 0))
            logits[token] = bias <= TokenBias.Ban ? float.NegativeInfinity : logits[token] + bias;
    }

    private void Note(int token)
    {
        _generated++;
        if (_seenAt is null)
            return;
        ref int at = ref CollectionsMarshal.GetValueRefOrAddDefault(_seenAt, token, out bool isKnown);
        if (!isKnown)
        {
            at = _seen.Count;
            _seen.Add(new SeenToken(token, 0));
        }

        _seen[at] = new SeenToken(token, _seen[at].Times + 1);
    }

    private int Draw(Span<float> logits, ref Xoshiro256 random, SamplerWorkspace workspace)
    {
        Span<float> weights = workspace.Weights.AsSpan(0, logits.Length);
        TensorPrimitives.Divide(logits, _parameters.Temperature, logits);
        float max = TensorPrimitives.Max(logits);
        double sum = Softmax.Weights(logits, max, weights);
        int most = _parameters.TopK == 0 ? logits.Length : Math.Min(_parameters.TopK, logits.Length);
        if (most == logits.Length && _parameters.TopP >= 1 && _parameters.MinP == 0)
            return Pick(weights, sum * random.NextDouble());

        // The least weight that can pass: by min-p, and because all that is under (1 - p) / n cannot add up to 1 - p.
        double least = Math.Max(_parameters.MinP, most == logits.Length ? sum * (1 - _parameters.TopP) / logits.Length : 0);
        ReadOnlySpan<ulong> candidates = Likeliest(weights, (float)least, most, workspace.Keys);
        double mass = 0;
        foreach (ulong key in candidates)
            mass += weights[TokenOf(key)];
        // What was left out only because it cannot pass top-p still counts to the whole.
        double nucleus = (most == logits.Length && _parameters.MinP == 0 ? sum : mass) * _parameters.TopP, reached = 0;
        int kept = 0;
        while (kept < candidates.Length && (kept == 0 || reached < nucleus))
            reached += weights[TokenOf(candidates[kept++])];
        return Pick(weights, candidates[..kept], reached * random.NextDouble());
    }

    // Sorts by falling weight (positive floats order as their bits), then by rising id.
    private static ulong KeyOf(float weight, int token) => ((ulong)~BitConverter.SingleToUInt32Bits(weight) << 32) | (uint)token;

    private static int TokenOf(ulong key) => (int)(uint)key;

    /// <summary>The keys of up to <paramref name="most"/> tokens with at least a weight, sorted.</summary>
    private static ReadOnlySpan<ulong> Likeliest(ReadOnlySpan<float> weights, float least, int most, ulong[] keys)
    {
        // When the buffer is full, all but the likeliest go, and the bar is raised to the last of those: few tokens get past it.
        int count = 0, room = (int)Math.Min(keys.Length, Math.Max(4L * most, 256));
        for (int i = 0; i < weights.Length; i++)
        {
            float weight = weights[i];
            if (weight < least || weight == 0)
                continue;
            if (count == room)
            {
                keys.AsSpan(0, count).Sort();
                count = most;
                float bar = weights[TokenOf(keys[most - 1])];
                least = MathF.BitIncrement(bar); // an equal weight with a higher id comes after all that are kept
                if (weight < least)
                    continue;
            }

            keys[count++] = KeyOf(weight, i);
        }

        keys.AsSpan(0, count).Sort();
        return keys.AsSpan(0, Math.Min(count, most));
    }

    /// <summary>The token at which the running sum of weights passes the threshold.</summary>
    private static int Pick(ReadOnlySpan<float> weights, double threshold)
    {
        int last = 0; // rounding may leave the threshold just above the whole sum
        double reached = 0;
        for (int i = 0; i < weights.Length && reached <= threshold; i++)
        {
            if (weights[i] == 0)
                continue;
            last = i;
            reached += weights[i];
        }

        return last;
    }

    /// <summary>The candidate at which the running sum of weights passes the threshold.</summary>
    private static int Pick(ReadOnlySpan<float> weights, ReadOnlySpan<ulong> candidates, double threshold)
    {
        int i = 0;
        for (double reached = weights[TokenOf(candidates[0])]; i < candidates.Length - 1 && reached <= threshold; reached += weights[TokenOf(candidates[i])])
            i++;
        return TokenOf(candidates[i]);
    }
}
