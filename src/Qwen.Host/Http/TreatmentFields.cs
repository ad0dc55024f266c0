using Qwen.Runtime.Engine;

namespace Qwen.Host.Http;

/// <summary>The fields that say how a request is treated, whatever is sampled for it: <c>priority</c>, <c>cache_salt</c> and <c>timeout</c>.</summary>
internal static class TreatmentFields
{
    /// <summary>Reads them.</summary>
    /// <param name="fields">The body.</param>
    /// <param name="id">The request's id, for traces.</param>
    /// <param name="most">The server's own bound of the time; null for none.</param>
    public static RequestOptions Read(RequestFields fields, string id, TimeSpan? most) => new()
    {
        Priority = fields.Int("priority") ?? 0,
        CacheSalt = fields.String("cache_salt"),
        Timeout = Shorter(Timeout(fields), most),
        Id = id,
    };

    private static TimeSpan? Timeout(RequestFields fields) => fields.Double("timeout") switch
    {
        null => null,
        > 0 and <= 30 * 86_400 and double seconds => TimeSpan.FromSeconds(seconds),
        double other => throw ApiException.Invalid($"timeout: {other} is not a number of seconds between 0 and 30 days.", "timeout", "invalid_value"),
    };

    private static TimeSpan? Shorter(TimeSpan? asked, TimeSpan? most) => asked is null || most < asked ? most : asked;
}
