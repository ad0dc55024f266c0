using System.Text.Json.Nodes;

namespace Qwen.LoadTest;

/// <summary>Least and most of a uniformly drawn number, written 10-200 or 50.</summary>
internal readonly record struct Span(int Least, int Most)
{
    public static Span Parse(string text)
    {
        string[] ends = text.Split('-');
        return ends.Length is 1 or 2 && int.TryParse(ends[0], out int least) && int.TryParse(ends[^1], out int most) && least >= 1 && most >= least
            ? new Span(least, most)
            : throw new ArgumentException($"'{text}' is no span of positive numbers; write 10-200 or 50.");
    }

    public int Draw(Random random) => random.Next(Least, Most + 1);
}

/// <summary>What a client does with a request.</summary>
internal enum Conduct
{
    /// <summary>Reads the answer to its end.</summary>
    Complete,

    /// <summary>Stops reading after some tokens, and closes the connection.</summary>
    Disconnect,

    /// <summary>Gives up after some time, wherever the request is by then: in the queue, in its prompt, in its answer.</summary>
    Cancel,

    /// <summary>Sends what must be refused.</summary>
    Bad,
}

/// <summary>The requests of a run: a pool of distinct ones, drawn from again and again.</summary>
/// <remarks>Prompts are token ids, so their lengths are exact for any model; each request is greedy or has a seed, so its answer is determined by it alone.</remarks>
internal sealed class Workload
{
    private const int FirstToken = 300, LastToken = 1500; // plain tokens in every Qwen vocabulary and in the demo model's

    // Each must be refused with 400, for another reason.
    private static readonly string[] BadBodies =
    [
        "{", "[]", """{"prompt": {}}""", """{"prompt": "a", "temperature": -1}""", """{"prompt": "a", "max_tokens": "many"}""", """{"prompt": [-1]}""", """{"prompt": "a", "stop": [1]}""",
    ];

    private readonly JsonObject[] _bodies;

    /// <summary>Draws the pool.</summary>
    public Workload(int seed, int distinct, Span prompt, Span answer, int prefixes, int prefixTokens)
    {
        var random = new Random(seed);
        int[][] shared = [.. Enumerable.Range(0, prefixes).Select(_ => Tokens(random, prefixTokens))];
        _bodies = [.. Enumerable.Range(0, distinct).Select(i => Body(
            [.. shared.Length > 0 ? shared[random.Next(shared.Length)] : [], .. Tokens(random, prompt.Draw(random))], answer.Draw(random), isGreedy: i % 2 == 0, seed: random.Next()))];
    }

    public int Count => _bodies.Length;

    /// <summary>A streamed request that must be answered.</summary>
    public string Body(int index) => _bodies[index].ToJsonString();

    /// <summary>A request that must be refused.</summary>
    public static string BadBody(Random random) => BadBodies[random.Next(BadBodies.Length)];

    /// <summary>A request of a prompt of random tokens.</summary>
    public static JsonObject Body(int[] prompt, int maxTokens, bool isGreedy = true, int seed = 0) => new()
    {
        ["prompt"] = new JsonArray([.. prompt.Select(t => (JsonNode)t)]),
        ["max_tokens"] = maxTokens,
        ["temperature"] = isGreedy ? 0 : 0.8,
        ["seed"] = seed,
        ["ignore_eos"] = true,
        ["stream"] = true,
        ["stream_options"] = new JsonObject { ["include_usage"] = true },
        ["return_token_ids"] = true, // an event for each token, whole characters or not
    };

    public static int[] Tokens(Random random, int count) => [.. Enumerable.Range(0, count).Select(_ => random.Next(FirstToken, LastToken))];
}
