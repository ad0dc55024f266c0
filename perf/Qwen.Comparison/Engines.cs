using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;

namespace Qwen.Comparison;

/// <summary>What is measured: a prompt, its continuation, how often, and how many sequences side by side.</summary>
internal sealed record Workload(int Threads, int PromptTokens, int GeneratedTokens, int Repeats, int Sequences);

/// <summary>An engine's figures of one run. <see cref="BandwidthShare"/>: decode's bytes per second over those of a plain read in the same run; NaN where unknown.</summary>
internal readonly record struct Speed(double Prefill, double Decode, double BandwidthShare, double ReadBandwidth);

/// <summary>Runs an engine in a process of its own.</summary>
internal static class Engines
{
    /// <summary>This one: <c>qwen bench</c>.</summary>
    public static Speed Ours(string model, Workload w)
    {
        JsonNode result = Run("dotnet", [
            Path.Combine(AppContext.BaseDirectory, "qwen.dll"), "bench", "--json", "--model", model, "--threads", Text(w.Threads),
            "--prompt-tokens", Text(w.PromptTokens), "--gen-tokens", Text(w.GeneratedTokens), "--repeat", Text(w.Repeats),
            "--sequences", Text(w.Sequences), "--max-num-seqs", Text(Math.Max(8, w.Sequences)), "--max-model-len", Text(w.PromptTokens + w.GeneratedTokens + 64)]);
        return new Speed(
            (double)result["prefill_tokens_per_s"]!, (double)result["decode_tokens_per_s"]!, (double)result["decode_bandwidth_fraction"]!,
            (double)result["read_bandwidth_bytes_per_s"]!);
    }

    /// <summary>llama.cpp, through the npm package that is installed in <paramref name="folder"/>.</summary>
    public static Speed LlamaCpp(string folder, string model, Workload w)
    {
        JsonNode result = Run("node", [
            Path.Combine(AppContext.BaseDirectory, "llama-cpp.mjs"), folder, model, Text(w.Threads), Text(w.PromptTokens), Text(w.GeneratedTokens), Text(w.Repeats), Text(w.Sequences)]);
        return new Speed((double)result["prefill_tokens_per_s"]!, (double)result["decode_tokens_per_s"]!, double.NaN, double.NaN);
    }

    private static JsonNode Run(string program, string[] arguments)
    {
        using Process process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        Task<string> errors = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return process.ExitCode == 0
            ? JsonNode.Parse(output)!
            : throw new InvalidOperationException($"{program} {string.Join(' ', arguments)} ended with {process.ExitCode}: {errors.Result}");
    }

    private static string Text(int number) => number.ToString(CultureInfo.InvariantCulture);
}
