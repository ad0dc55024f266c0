using System.Text;
using Qwen.Runtime.Engine;

namespace Qwen.Runtime.Tests.Engine;

public sealed class AssistantParserTests
{
    [Theory]
    [InlineData("Hello", "Hello", "", "")]
    [InlineData("<think>\nA\nB\n</think>\n\nHello\n", "Hello\n", "A\nB", "")]
    [InlineData("\n<think></think>\n\nHi", "Hi", "", "")]
    [InlineData("<think>never ends", "", "never ends", "")]
    [InlineData("text with <think> later", "text with <think> later", "", "")]
    [InlineData("<thin", "<thin", "", "")]
    [InlineData("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": 1}}\n</tool_call>", "", "", "f({\"x\": 1})")]
    [InlineData("Let me see.\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"g\"}</tool_call>", "Let me see.", "", "f({})g({})")]
    [InlineData("<tool_call>{\"name\":\"f\",\"arguments\":{}}", "", "", "f({})")] // the end of the text serves as the end tag
    [InlineData("<tool_call>not json</tool_call> then", "<tool_call>not json</tool_call> then", "", "")]
    [InlineData("<tool_call>{\"name\": 3}</tool_call>", "<tool_call>{\"name\": 3}</tool_call>", "", "")]
    [InlineData("a < b <tool", "a < b <tool", "", "")]
    [InlineData("<think>\nhm\n</think>\n\n<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":2}\"}</tool_call>", "", "hm", "f({\"a\":2})")]
    public void Answer_IsTakenApart_HoweverItIsCut(string text, string content, string reasoning, string calls)
    {
        Assert.Equal((content, reasoning, calls), Parse([text], true, false));
        Assert.Equal((content, reasoning, calls), Parse([.. text.Select(c => c.ToString())], true, false));
        var random = new Random(7);
        for (int i = 0; i < 50; i++)
            Assert.Equal((content, reasoning, calls), Parse(Cut(text, random), true, false));
    }

    [Fact]
    public void WithoutTools_CallsAreContent()
    {
        const string Text = "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>";
        Assert.Equal((Text, "", ""), Parse([Text], false, false));
    }

    [Fact]
    public void PromptThatEndsInThink_BeginsInReasoning()
    {
        Assert.True(AssistantParser.EndsInReasoning("<|im_start|>assistant\n<think>\n"));
        Assert.False(AssistantParser.EndsInReasoning("<think>\n\n</think>\n\n"));
        Assert.Equal(("Yes", "hm", ""), Parse(["hm\n</thi", "nk>\n\nYes"], true, true));
    }

    [Fact]
    public void RandomTextOfTags_LosesNothing()
    {
        string[] parts = ["<think>", "</think>", "<tool_call>", "</tool_call>", "{\"name\":", "\"f\"", "}", "x", " ", "<", "tool_call>", "\\ud800", "\""];
        for (int seed = 0; seed < 3000; seed++)
        {
            var random = new Random(seed);
            string text = string.Concat(Enumerable.Range(0, random.Next(12)).Select(_ => parts[random.Next(parts.Length)]));
            (string, string, string) whole = Parse([text], true, false);
            Assert.True(whole == Parse(Cut(text, random), true, false), $"seed {seed}: {text}");
            if (whole.Item3.Length == 0)
                Assert.Equal(Bare(text), Bare(whole.Item2 + whole.Item1));
        }

        // What only marks the reasoning goes; all else stays.
        static string Bare(string text) => text.Replace("<think>", "", StringComparison.Ordinal).Replace("</think>", "", StringComparison.Ordinal).Replace(" ", "", StringComparison.Ordinal);
    }

    private static (string Content, string Reasoning, string Calls) Parse(List<string> pieces, bool tools, bool inReasoning)
    {
        var parser = new AssistantParser(tools, inReasoning);
        var (content, reasoning, calls) = (new StringBuilder(), new StringBuilder(), new StringBuilder());
        for (int i = 0; i <= pieces.Count; i++)
        {
            AssistantPiece piece = parser.Append(i < pieces.Count ? pieces[i] : "", isLast: i == pieces.Count);
            content.Append(piece.Content);
            reasoning.Append(piece.Reasoning);
            foreach (ToolCall call in piece.ToolCalls)
                calls.Append(call.Name).Append('(').Append(call.Arguments).Append(')');
        }

        return (content.ToString(), reasoning.ToString(), calls.ToString());
    }

    private static List<string> Cut(string text, Random random)
    {
        var pieces = new List<string>();
        for (int at = 0; at < text.Length;)
        {
            int length = random.Next(1, Math.Min(8, text.Length - at) + 1);
            pieces.Add(text.Substring(at, length));
            at += length;
        }

        return pieces;
    }
}
