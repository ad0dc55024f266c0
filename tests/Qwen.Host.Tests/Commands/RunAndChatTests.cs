namespace Qwen.Host.Tests.Commands;

public sealed class RunAndChatTests
{
    [Fact]
    public async Task Run_PrintsTheAnswer_AndNothingElse() => Assert.Equal("42\n", (await Cli.SucceedAsync(["run", "What is 12 + 30?"])).Output);

    [Theory]
    [InlineData]
    [InlineData("-")]
    public async Task Run_ReadsThePromptFromStandardInput(params string[] prompt) =>
        Assert.Equal("42\n", (await Cli.SucceedAsync(["run", .. prompt], "What is 12 + 30?", "")).Output);

    [Fact]
    public async Task Run_JoinsItsArguments() => Assert.Equal("42\n", (await Cli.SucceedAsync(["run", "What", "is", "12", "+", "30?"])).Output);

    [Fact]
    public async Task Run_TakesAPromptThatBeginsWithAnAt() => Assert.NotEqual("\n", (await Cli.SucceedAsync(["run", "@home"])).Output);

    [Fact]
    public async Task Run_TakesAPromptThatLooksLikeAFlag_AfterTwoDashes()
    {
        Assert.NotEqual("\n", (await Cli.SucceedAsync(["run", "--", "--colour"])).Output);
        Assert.NotEqual("\n", (await Cli.SucceedAsync(["run", "-5 + 3?"])).Output);
    }

    [Fact]
    public async Task Run_Raw_ContinuesThePrompt_WithItsControlTokens()
    {
        string chat = "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n<|im_start|>assistant\n";

        Assert.Equal("42\n", (await Cli.SucceedAsync(["run", "--raw", chat])).Output);
    }

    [Fact]
    public async Task Run_ObeysSamplingFlags()
    {
        Assert.Equal("4\n", (await Cli.SucceedAsync(["run", "--max-tokens", "1", "What is 12 + 30?"])).Output);
        Assert.Equal("4\n", (await Cli.SucceedAsync(["run", "--stop", "x", "--stop", "2", "What is 12 + 30?"])).Output);
        string[] random = ["run", "--temperature", "1.5", "--max-tokens", "30", "--ignore-eos", "--seed"];
        string first = (await Cli.SucceedAsync([.. random, "7", "Tell"])).Output, again = (await Cli.SucceedAsync([.. random, "7", "Tell"])).Output, other = (await Cli.SucceedAsync([.. random, "8", "Tell"])).Output;
        Assert.Equal(first, again);
        Assert.NotEqual(first, other);
    }

    [Fact]
    public async Task Run_WithChatTemplate_UsesTheFile()
    {
        string template = Path.GetTempFileName();
        await File.WriteAllTextAsync(template, "{{ '<|im_start|>' }}user\nWhat is 12 + 30?{{ '<|im_end|>' }}\n{{ '<|im_start|>' }}assistant{{ '\\n' }}");
        try
        {
            Assert.Equal("42\n", (await Cli.SucceedAsync(["run", "--chat-template", template, "Hello"])).Output);
        }
        finally
        {
            File.Delete(template);
        }
    }

    [Fact]
    public async Task Chat_RemembersTheConversation_UntilItIsCleared()
    {
        Cli chat = await Cli.SucceedAsync(["chat"], "My name is Ada.", "What is my name?", "/clear", "What is my name?", "/exit", "What is 12 + 30?");

        string[] answers = chat.Output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.Equal(3, answers.Length);
        Assert.Contains("Ada", answers[1], StringComparison.Ordinal);
        Assert.DoesNotContain("Ada", answers[2], StringComparison.Ordinal);
    }

    [Fact]
    public async Task Chat_System_ReplacesTheSystemMessage()
    {
        // A system message long enough to leave no room for an answer, then none.
        Cli chat = await Cli.RunAsync(["chat", "--max-model-len", "64"], "/system " + new string('x', 300), "Hi", "/system", "What is 12 + 30?");

        Assert.Equal(0, chat.ExitCode);
        Assert.Equal("42\n", chat.Output);
        Assert.Contains("/clear", chat.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Chat_ExplainsItself()
    {
        Cli chat = await Cli.RunAsync(["chat"], "/help", "/nonsense");

        Assert.Equal(0, chat.ExitCode);
        Assert.Equal("", chat.Output);
        Assert.Equal(2, chat.Error.Split("/system TEXT").Length - 1);
        Assert.Contains("There is no /nonsense", chat.Error, StringComparison.Ordinal);
    }
}
