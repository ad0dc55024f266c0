using System.CommandLine;
using Qwen.Runtime.Sampling;

namespace Qwen.Host.Commands;

/// <summary>The flags that say how tokens are chosen; what is not given comes from the model.</summary>
internal sealed class SamplingFlags
{
    private readonly Option<double?> _temperature = new("--temperature") { Description = "0 takes the likeliest token." };
    private readonly Option<double?> _topP = new("--top-p") { Description = "Likeliest tokens whose probabilities reach this sum." };
    private readonly Option<int?> _topK = new("--top-k") { Description = "The k likeliest tokens." };
    private readonly Option<double?> _minP = new("--min-p") { Description = "Tokens at least this fraction as likely as the likeliest." };
    private readonly Option<double?> _repetition = new("--repetition-penalty") { Description = "Against tokens of prompt and answer; 1 for none." };
    private readonly Option<double?> _presence = new("--presence-penalty") { Description = "Against tokens of the answer." };
    private readonly Option<double?> _frequency = new("--frequency-penalty") { Description = "Against tokens of the answer, each time they are there." };
    private readonly Option<ulong?> _seed = new("--seed") { Description = "The same seed gives the same answer." };
    private readonly Option<int?> _maxTokens = new("--max-tokens", "-n") { Description = "Most tokens of the answer." };
    private readonly Option<bool> _ignoreEos = new("--ignore-eos") { Description = "Goes on after an end-of-sequence token." };
    private readonly Option<string[]> _stop = new("--stop") { Description = "A text that ends the answer; may be repeated." };

    public void AddTo(Command command)
    {
        foreach (Option option in (ReadOnlySpan<Option>)[_temperature, _topP, _topK, _minP, _repetition, _presence, _frequency, _seed, _maxTokens, _ignoreEos, _stop])
            command.Options.Add(option);
    }

    public SamplingOptions Read(ParseResult parsed) => new()
    {
        Temperature = parsed.GetValue(_temperature),
        TopP = parsed.GetValue(_topP),
        TopK = parsed.GetValue(_topK),
        MinP = parsed.GetValue(_minP),
        RepetitionPenalty = parsed.GetValue(_repetition),
        PresencePenalty = parsed.GetValue(_presence),
        FrequencyPenalty = parsed.GetValue(_frequency),
        Seed = parsed.GetValue(_seed),
        MaxTokens = parsed.GetValue(_maxTokens),
        IgnoreEos = parsed.GetValue(_ignoreEos),
        Stop = parsed.GetValue(_stop) ?? [],
    };
}
