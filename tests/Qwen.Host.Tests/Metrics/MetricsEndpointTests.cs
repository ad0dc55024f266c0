using System.Globalization;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Qwen.Host.Http;
using Qwen.Host.Tests.Http;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Tests.Metrics;

public sealed partial class MetricsEndpointTests
{
    // What vLLM's own dashboard asks for.
    private static readonly string[] Expected =
    [
        "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total",
        "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:num_preemptions_total", "vllm:request_success_total",
        "vllm:time_to_first_token_seconds_bucket", "vllm:inter_token_latency_seconds_sum", "vllm:e2e_request_latency_seconds_count",
        "vllm:request_queue_time_seconds_sum", "vllm:request_prefill_time_seconds_sum", "vllm:request_decode_time_seconds_sum", "vllm:request_prompt_tokens_bucket",
        "vllm:request_generation_tokens_bucket", "vllm:iteration_tokens_total_bucket", "qwen:steps_total", "qwen:step_time_seconds_total", "qwen:step_read_bytes_total",
        "qwen:step_roofline_share", "qwen:memory_bandwidth_bytes_per_second", "qwen:engine_ready",
        "process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds",
    ];

    [Fact]
    public async Task Metrics_CountWhatWasAnswered_UnderVllmsNames()
    {
        await using QwenEngine engine = await QwenEngine.LoadAsync();
        await using TestHost host = await TestHost.StartAsync(engine, new ServerOptions { ModelName = "demo", MemoryBandwidth = 1e9, ApiKeys = ["secret"] });
        host.Client.DefaultRequestHeaders.Authorization = new("Bearer", "secret");
        for (int i = 0; i < 2; i++)
            await host.AskAsync("/v1/completions", new JsonObject { ["prompt"] = "The capital of France is a city, and it is called by a name that everybody who goes to school has heard of", ["max_tokens"] = 4, ["temperature"] = 0, ["ignore_eos"] = true });
        await DemoEngine.WaitUntilIdleAsync(engine);
        host.Client.DefaultRequestHeaders.Authorization = null; // a scraper needs no key

        using HttpResponseMessage response = await host.Client.GetAsync("/metrics");
        Assert.Equal("text/plain; version=0.0.4; charset=utf-8", response.Content.Headers.ContentType?.ToString());
        string text = await response.Content.ReadAsStringAsync();
        Dictionary<string, double> samples = [];
        foreach (string line in text.TrimEnd('\n').Split('\n').Where(l => l[0] != '#'))
        {
            Match match = Sample().Match(line);
            Assert.True(match.Success, line);
            samples.Add(match.Groups[1].Value + match.Groups[3].Value, double.Parse(match.Groups[4].Value.Replace("+Inf", "Infinity", StringComparison.Ordinal), CultureInfo.InvariantCulture));
            Assert.Equal("demo", match.Groups[2].Value);
        }

        Assert.All(Expected, name => Assert.Contains(samples.Keys, key => key.StartsWith(name, StringComparison.Ordinal)));
        Assert.Equal(8, samples["vllm:generation_tokens_total"]);
        Assert.Equal(2, samples["vllm:request_success_total,finished_reason=\"length\""]);
        Assert.Equal(2, samples["vllm:time_to_first_token_seconds_count"]);
        Assert.Equal(2, samples["vllm:time_to_first_token_seconds_bucket,le=\"+Inf\""]);
        Assert.Equal(6, samples["vllm:inter_token_latency_seconds_count"]);
        Assert.Equal(0, samples["vllm:kv_cache_usage_perc"]);
        Assert.InRange(samples["vllm:prefix_cache_hits_total"], 1, samples["vllm:prefix_cache_queries_total"]);
        Assert.InRange(samples["process_resident_memory_bytes"], 1e6, 1e12);
        Assert.True(samples["qwen:step_roofline_share,kind=\"decode\""] > 0);
    }

    [GeneratedRegex("""^([a-z0-9_:]+)\{model_name="([^"]*)"(,[^}]*)?\} (\S+)$""")]
    private static partial Regex Sample();
}
