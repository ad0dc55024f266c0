namespace Qwen.Host.Tests.Commands;

public sealed class ErrorTests
{
    [Theory]
    [InlineData("'fly' is no command or flag of qwen", "fly")]
    [InlineData("'--colour' is no command or flag of qwen run", "run", "--colour", "red", "Hi")]
    [InlineData("'--colour' is no command or flag of qwen tokenize", "tokenize", "--colour")]
    [InlineData("--temperature", "run", "--temperature", "hot", "Hi")]
    [InlineData("temperature: 200", "run", "--temperature", "200", "Hi")]
    [InlineData("max_tokens: 0", "run", "--max-tokens", "0", "Hi")]
    [InlineData("--max-num-seqs: 0 must be between", "run", "--max-num-seqs", "0", "Hi")]
    [InlineData("--max-num-batched-tokens: 1 must be at least", "run", "--max-num-batched-tokens", "1", "Hi")]
    [InlineData("--block-size: 9999 must be between", "run", "--block-size", "9999", "Hi")]
    [InlineData("--device: 'gpu' is no device; write", "run", "--device", "gpu", "Hi")]
    [InlineData("--device cuda:99, --gpu-layers auto: ", "run", "--device", "cuda:99", "Hi")]
    [InlineData("--gpu-layers: 'some' is no number of layers", "run", "--gpu-layers", "some", "Hi")]
    [InlineData("--gpu-memory-utilization: 2 must be", "run", "--gpu-memory-utilization", "2", "Hi")]
    [InlineData("--dtype: 'float8' is not known; known are", "run", "--dtype", "float8", "Hi")]
    [InlineData("--threads: -1 must be between", "run", "--threads=-1", "Hi")]
    [InlineData("--kv-cache-dtype: 'int3' is not known; known are", "run", "--kv-cache-dtype", "int3", "Hi")]
    [InlineData("--max-queue: 0 must be between", "run", "--max-queue", "0", "Hi")]
    [InlineData("--speculative: 'magic' is not known; known are", "run", "--speculative", "magic", "Hi")]
    [InlineData("--speculative ngram and --draft-model", "run", "--speculative", "ngram", "--draft-model", "synthetic:qwen2.5-0.5b", "Hi")]
    [InlineData("--num-speculative-tokens: 0 must be between", "run", "--speculative", "ngram", "--num-speculative-tokens", "0", "Hi")]
    [InlineData("--draft-model: there is no file or directory '/no/such/model'", "run", "--draft-model", "/no/such/model", "Hi")]
    [InlineData("--kv-cache-memory: 'lots' is not a number of bytes; write", "run", "--kv-cache-memory", "lots", "Hi")]
    [InlineData("KV cache", "run", "--kv-cache-memory", "1K", "Hi")]
    [InlineData("--rope-scaling: is not valid JSON", "run", "--rope-scaling", "{", "Hi")]
    [InlineData("--rope-scaling", "run", "--rope-scaling", """{"rope_type":"magic","factor":2}""", "Hi")]
    [InlineData("'/no/such/template'", "run", "--chat-template", "/no/such/template", "Hi")]
    [InlineData("--model: there is no file or directory '/no/such/model'; give", "run", "--model", "/no/such/model", "Hi")]
    [InlineData("--model: there is no file or directory '/no/such/model'; give", "tokenize", "--model", "/no/such/model")]
    [InlineData("--model: there is no file or directory '/no/such/model'; give", "render", "--model", "/no/such/model")]
    [InlineData("--model: there is no file or directory '/no/such/model'; give", "inspect", "--model", "/no/such/model")]
    [InlineData("shape 'qwen9' is not known; known are", "bench", "--model", "synthetic:qwen9")]
    [InlineData("There is no prompt; give it", "run")]
    [InlineData("--system has no place", "run", "--raw", "--system", "x", "Hi")]
    [InlineData("The prompt has", "run", "--max-model-len", "8", "Hello there")]
    [InlineData("--host: 'example' is not an IP address; give", "serve", "--host", "example")]
    [InlineData("--port: 70000 is not between", "serve", "--port", "70000")]
    [InlineData("--max-request-bytes: '0' is not a number of bytes", "serve", "--max-request-bytes", "0")]
    [InlineData("--max-unread-tokens: 0 must be between", "serve", "--max-unread-tokens", "0")]
    [InlineData("--slow-reader-timeout: 0 is not a number of seconds", "serve", "--slow-reader-timeout", "0")]
    [InlineData("--request-timeout: -1 is not a number of seconds", "serve", "--request-timeout=-1")]
    [InlineData("--drain-timeout: 1E+300 is not a number of seconds", "serve", "--drain-timeout", "1e300")]
    [InlineData("--log-format: 'xml' is not known; known are", "serve", "--log-format", "xml")]
    [InlineData("--otlp-endpoint: 'here' is no address; give", "serve", "--otlp-endpoint", "here")]
    [InlineData("--gen-tokens: 1 is less than 2", "bench", "--gen-tokens", "1")]
    [InlineData("--prompt-tokens 1000 and --gen-tokens 100 are more than the 1024 tokens", "bench", "--prompt-tokens", "1000", "--gen-tokens", "100")]
    public async Task Mistake_GetsOneLine_AndExitCode2(string expected, params string[] args)
    {
        Cli result = await Cli.RunAsync(args);

        Assert.Equal(2, result.ExitCode);
        Assert.Equal("", result.Output);
        string line = Assert.Single(result.Error.Split('\n', StringSplitOptions.RemoveEmptyEntries));
        Assert.StartsWith("qwen: ", line, StringComparison.Ordinal);
        Assert.Contains(expected, line, StringComparison.Ordinal);
    }

    [Fact]
    public async Task DamagedModel_GetsOneLine()
    {
        string file = Path.Combine(Path.GetTempPath(), $"{Guid.NewGuid():N}.gguf");
        await File.WriteAllTextAsync(file, "this is no model");
        try
        {
            foreach (string command in (string[])["run", "inspect", "tokenize", "logits", "bench"])
            {
                Cli result = await Cli.RunAsync(command == "run" ? [command, "Hi", "--model", file] : [command, "--model", file]);
                Assert.Equal(2, result.ExitCode);
                Assert.Contains(Path.GetFileName(file), Assert.Single(result.Error.Split('\n', StringSplitOptions.RemoveEmptyEntries)), StringComparison.Ordinal);
            }
        }
        finally
        {
            File.Delete(file);
        }
    }

    [Theory]
    [InlineData("--help")]
    [InlineData("run", "--help")]
    [InlineData("serve", "--help")]
    public async Task Help_Succeeds(params string[] args) =>
        Assert.Contains(args.Length > 1 ? "--kv-cache-dtype" : "tokenize", (await Cli.SucceedAsync(args)).Output, StringComparison.Ordinal);
}
