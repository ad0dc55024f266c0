namespace Qwen.Runtime.Engine;

/// <summary>How a request is treated, whatever is sampled for it.</summary>
public sealed record RequestOptions
{
    /// <summary>Requests of a lower number go first, and keep their memory longer; among equals, first come, first served.</summary>
    public int Priority { get; init; }

    /// <summary>How long it may take from its submission to its last token; null for as long as it takes.</summary>
    public TimeSpan? Timeout { get; init; }

    /// <summary>Only requests with the same salt share cached prefixes: give each tenant one. Null to share with all that have none.</summary>
    public string? CacheSalt { get; init; }

    /// <summary>A name for traces.</summary>
    public string? Id { get; init; }

    /// <summary>These options, if every value makes sense.</summary>
    /// <exception cref="ArgumentException">One doesn't; the message names it.</exception>
    internal RequestOptions Validated()
    {
        const int MostSalt = 1024;
        if (Timeout is { } timeout && (timeout <= TimeSpan.Zero || timeout > TimeSpan.FromDays(30)))
            throw new ArgumentException($"timeout: {timeout} is not between 0 and 30 days.");
        if (CacheSalt?.Length is 0 or > MostSalt)
            throw new ArgumentException($"cache_salt: a salt must have 1 to {MostSalt} characters, not {CacheSalt.Length}.");
        return this;
    }
}
