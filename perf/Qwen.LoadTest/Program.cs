using System.CommandLine;
using Qwen.LoadTest;

var server = new Option<string>("--url") { Description = "The server.", DefaultValueFactory = _ => "http://127.0.0.1:8000", Recursive = true };
var key = new Option<string?>("--api-key") { Description = "Its key.", Recursive = true };
var json = new Option<string?>("--json") { Description = "A file for the figures, as JSON.", Recursive = true };

var clients = new Option<int>("--clients") { Description = "Closed loop: clients, each with one request at a time.", DefaultValueFactory = _ => 8 };
var rate = new Option<double?>("--rate") { Description = "Open loop: requests a second, as a Poisson process, instead of --clients." };
var seconds = new Option<double>("--seconds") { Description = "How long requests are sent.", DefaultValueFactory = _ => 30 };
var prompt = new Option<string>("--prompt-tokens") { Description = "Tokens of a prompt, beside its shared prefix: 50, or 10-200.", DefaultValueFactory = _ => "32-256" };
var answer = new Option<string>("--max-tokens") { Description = "Tokens of an answer.", DefaultValueFactory = _ => "16-128" };
var prefixes = new Option<int>("--prefixes") { Description = "Prefixes, one of which each prompt begins with; 0 for none.", DefaultValueFactory = _ => 0 };
var prefixTokens = new Option<int>("--prefix-tokens") { Description = "Tokens of each.", DefaultValueFactory = _ => 256 };
var distinct = new Option<int>("--distinct") { Description = "Distinct requests.", DefaultValueFactory = _ => 200 };
var cancel = new Option<double>("--cancel") { Description = "The share of requests that are cancelled after a random time." };
var disconnect = new Option<double>("--disconnect") { Description = "The share whose connection is closed after a random number of tokens." };
var bad = new Option<double>("--bad") { Description = "The share that must be refused." };
var verify = new Option<bool>("--verify") { Description = "Answers each distinct request alone first, and compares all answers with those." };
var seed = new Option<int>("--seed") { Description = "Of everything random.", DefaultValueFactory = _ => 1 };
var load = new Command("load", "Loads a server, closed-loop or open-loop. Exit code 1 if anything failed that was not provoked.")
{
    clients, rate, seconds, prompt, answer, prefixes, prefixTokens, distinct, cancel, disconnect, bad, verify, seed,
};
load.SetAction((parsed, _) => RunAsync(parsed, (client, report) => new LoadRun(
    client,
    new Workload(parsed.GetValue(seed), parsed.GetValue(distinct), Span.Parse(parsed.GetRequiredValue(prompt)), Span.Parse(parsed.GetRequiredValue(answer)), parsed.GetValue(prefixes), parsed.GetValue(prefixTokens)),
    new LoadOptions
    {
        Clients = parsed.GetValue(clients), Rate = parsed.GetValue(rate), Duration = TimeSpan.FromSeconds(parsed.GetValue(seconds)), Cancel = parsed.GetValue(cancel),
        Disconnect = parsed.GetValue(disconnect), Bad = parsed.GetValue(bad), Verify = parsed.GetValue(verify), Seed = parsed.GetValue(seed),
    }).RunAsync(report, Console.Error)));

var streams = new Option<int>("--streams") { Description = "Streams that decode.", DefaultValueFactory = _ => 8 };
var longTokens = new Option<int>("--prompt-tokens") { Description = "Tokens of the long prompt.", DefaultValueFactory = _ => 4000 };
var chunk = new Option<int>("--chunk") { Description = "The server's --max-num-batched-tokens.", DefaultValueFactory = _ => 512 };
var longPrompt = new Command("long-prompt", "A long prompt that arrives while streams decode.") { streams, longTokens, chunk };
longPrompt.SetAction((parsed, _) => RunAsync(parsed, async (client, report) =>
{
    await LongPromptRun.RunAsync(client, parsed.GetValue(streams), parsed.GetValue(longTokens), parsed.GetValue(chunk), report);
    return true;
}));

var sharedTokens = new Option<int>("--prefix-tokens") { Description = "Tokens that two prompts begin with.", DefaultValueFactory = _ => 1000 };
var prefix = new Command("prefix", "Prompts that begin alike: the time to the first token of the first and of the second.") { sharedTokens };
prefix.SetAction((parsed, _) => RunAsync(parsed, async (client, report) =>
{
    await PrefixRun.RunAsync(client, parsed.GetValue(sharedTokens), report);
    return true;
}));

return await new RootCommand("Loads a server that speaks OpenAI's completions, and measures it.") { server, key, json, load, longPrompt, prefix }.Parse(args).InvokeAsync();

async Task<int> RunAsync(ParseResult parsed, Func<Client, Report, Task<bool>> run)
{
    using var client = new Client(new Uri(parsed.GetRequiredValue(server)), parsed.GetValue(key));
    var report = new Report();
    bool isRight = await run(client, report);
    await report.WriteAsync(Console.Out, parsed.GetValue(json));
    return isRight ? 0 : 1;
}
