using System.CommandLine;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Speculation;

namespace Qwen.Host.Commands;

/// <summary>The flags of the engine beside those of the model: how many wait, what is cached, what is guessed.</summary>
internal sealed class EngineFlags
{
    private static readonly EngineOptions Defaults = new();
    private static readonly SpeculationOptions Guesses = new();

    private readonly Option<int> _maxQueue = new("--max-queue") { Description = "Most requests that wait for a place; one more is refused at once.", DefaultValueFactory = _ => Defaults.MaxQueue };
    private readonly Option<bool> _noPrefixCaching = new("--no-enable-prefix-caching") { Description = "Reads every prompt anew." };
    private readonly Option<string> _speculative = new("--speculative") { Description = "Guesses tokens and checks them together: none, or ngram for what followed the same tokens before. Answers stay the same.", DefaultValueFactory = _ => "none" };
    private readonly Option<string?> _draftModel = new("--draft-model") { Description = "A smaller model with the same tokens that guesses, as --model takes it." };
    private readonly Option<int> _draftTokens = new("--num-speculative-tokens") { Description = "Most tokens guessed at once.", DefaultValueFactory = _ => Guesses.Tokens };

    public void AddTo(Command command)
    {
        foreach (Option option in (ReadOnlySpan<Option>)[_maxQueue, _noPrefixCaching, _speculative, _draftModel, _draftTokens])
            command.Options.Add(option);
    }

    /// <summary>The options with what the flags say.</summary>
    public EngineOptions Apply(ParseResult parsed, EngineOptions options)
    {
        string? draft = ModelOptions.ReadPath(parsed.GetValue(_draftModel), "--draft-model");
        bool guesses = parsed.GetValue(_speculative) switch
        {
            "none" => draft is not null,
            "ngram" when draft is null => true,
            "ngram" => throw new ArgumentException("--speculative ngram and --draft-model: give one of them."),
            string other => throw new ArgumentException($"--speculative: '{other}' is not known; known are none and ngram."),
            null => false,
        };
        return options with
        {
            MaxQueue = parsed.GetValue(_maxQueue),
            EnablePrefixCaching = !parsed.GetValue(_noPrefixCaching),
            Speculation = guesses ? new SpeculationOptions { DraftModel = draft, Tokens = parsed.GetValue(_draftTokens) } : null,
        };
    }
}
