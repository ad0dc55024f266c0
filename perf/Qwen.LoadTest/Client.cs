using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Text;
using System.Text.Json;

namespace Qwen.LoadTest;

/// <summary>Sends requests to a server's /v1/completions, and reads their streams as they come.</summary>
internal sealed class Client : IDisposable
{
    private readonly HttpClient _http;

    public Client(Uri server, string? key)
    {
        _http = new HttpClient(new SocketsHttpHandler { PooledConnectionLifetime = Timeout.InfiniteTimeSpan }) { BaseAddress = server, Timeout = Timeout.InfiniteTimeSpan };
        if (key is not null)
            _http.DefaultRequestHeaders.Authorization = new("Bearer", key);
    }

    /// <summary>Sends a request.</summary>
    /// <param name="body">JSON.</param>
    /// <param name="conduct">What to do with it.</param>
    /// <param name="patience">After how many tokens to disconnect, or milliseconds to cancel.</param>
    /// <param name="onToken">Told of each token.</param>
    public async Task<Answer> SendAsync(string body, Conduct conduct = Conduct.Complete, int patience = 0, Action<Answer>? onToken = null)
    {
        var answer = new Answer(Outcome.Completed);
        long start = Stopwatch.GetTimestamp();
        using var end = new CancellationTokenSource();
        if (conduct == Conduct.Cancel)
            end.CancelAfter(patience);
        try
        {
            using var request = new HttpRequestMessage(HttpMethod.Post, "/v1/completions") { Content = new StringContent(body, Encoding.UTF8, "application/json") };
            using HttpResponseMessage response = await _http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, end.Token).ConfigureAwait(false);
            if (response.StatusCode == HttpStatusCode.TooManyRequests)
                return new Answer(Outcome.Overloaded);
            if (response.StatusCode != HttpStatusCode.OK)
            {
                string error = await response.Content.ReadAsStringAsync(end.Token).ConfigureAwait(false);
                bool isMeant = conduct == Conduct.Bad && response.StatusCode == HttpStatusCode.BadRequest;
                return new Answer(isMeant ? Outcome.Refused : Outcome.Failed) { Error = $"{(int)response.StatusCode}: {error}" };
            }

            if (conduct == Conduct.Bad)
                return new Answer(Outcome.Failed) { Error = $"200 for {body}" };
            using var reader = new StreamReader(await response.Content.ReadAsStreamAsync(end.Token).ConfigureAwait(false));
            long last = start;
            while (await reader.ReadLineAsync(end.Token).ConfigureAwait(false) is { } line)
            {
                if (line.Length == 0)
                    continue;
                if (line == "data: [DONE]")
                {
                    answer.Total = Stopwatch.GetElapsedTime(start).TotalSeconds;
                    return answer.FinishReason is null ? new Answer(Outcome.Failed) { Error = "The stream ended without a finish reason." } : answer;
                }

                using JsonDocument data = JsonDocument.Parse(line.AsMemory("data: ".Length));
                if (data.RootElement.TryGetProperty("error", out JsonElement error))
                    return new Answer(Outcome.Failed) { Error = error.GetRawText() };
                last = Take(answer, data.RootElement, start, last);
                onToken?.Invoke(answer);
                if (conduct == Conduct.Disconnect && answer.Tokens.Count >= patience)
                    return new Answer(Outcome.Abandoned); // leaving the block closes the connection
            }

            return new Answer(Outcome.Failed) { Error = "The stream ended without [DONE]." };
        }
        catch (OperationCanceledException) when (conduct == Conduct.Cancel)
        {
            return new Answer(Outcome.Abandoned);
        }
        catch (Exception e) when (e is HttpRequestException or IOException or JsonException)
        {
            return new Answer(Outcome.Failed) { Error = e.Message };
        }
    }

    /// <summary>The server's metrics: the sum of each name's series; buckets are left out.</summary>
    public async Task<IReadOnlyDictionary<string, double>> MetricsAsync()
    {
        var sums = new Dictionary<string, double>(StringComparer.Ordinal);
        foreach (string line in (await _http.GetStringAsync("/metrics").ConfigureAwait(false)).Split('\n', StringSplitOptions.RemoveEmptyEntries))
        {
            int end = line.IndexOfAny(['{', ' ']);
            if (line[0] == '#' || line[..end].EndsWith("_bucket", StringComparison.Ordinal))
                continue;
            sums[line[..end]] = sums.GetValueOrDefault(line[..end]) + double.Parse(line[(line.LastIndexOf(' ') + 1)..], CultureInfo.InvariantCulture);
        }

        return sums;
    }

    /// <inheritdoc/>
    public void Dispose() => _http.Dispose();

    private static long Take(Answer answer, JsonElement data, long start, long last)
    {
        if (data.TryGetProperty("usage", out JsonElement usage) && usage.ValueKind == JsonValueKind.Object)
        {
            answer.PromptTokens = usage.GetProperty("prompt_tokens").GetInt32();
            answer.CachedTokens = usage.GetProperty("prompt_tokens_details").GetProperty("cached_tokens").GetInt32();
        }

        JsonElement choices = data.GetProperty("choices");
        if (choices.GetArrayLength() == 0)
            return last;
        long now = Stopwatch.GetTimestamp();
        foreach (JsonElement id in choices[0].GetProperty("token_ids").EnumerateArray())
        {
            double gap = Stopwatch.GetElapsedTime(last, now).TotalSeconds;
            if (answer.Tokens.Count == 0)
                answer.FirstToken = gap;
            else
                answer.Gaps.Add(gap); // 0 for tokens that came together: the client was slower, or they were guessed
            answer.Tokens.Add(id.GetInt32());
            answer.TokenTimes.Add(now);
            last = now;
        }

        answer.FinishReason ??= choices[0].GetProperty("finish_reason").GetString();
        return last;
    }
}
