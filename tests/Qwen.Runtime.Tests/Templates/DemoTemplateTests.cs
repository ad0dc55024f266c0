using System.Text.Json.Nodes;
using Qwen.Runtime.Templates;

namespace Qwen.Runtime.Tests.Templates;

/// <summary>The demo model's template against the text that model was trained on, written out from the training script's own rendering.</summary>
public class DemoTemplateTests
{
    private const string Tool =
        """{"type": "function", "function": {"name": "get_time", "description": "Local time of a city", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}""";

    private static readonly ChatTemplate Template = new(File.ReadAllText(TemplateData.Own("demo.jinja")), "demo.jinja", TemplateData.ControlTokens);

    [SkippableFact]
    public void OwnCopy_IsTheModelsTemplate()
    {
        Skip.IfNot(File.Exists(TemplateData.Demo), $"no demo model: {TemplateData.Demo}");
        Assert.Equal(File.ReadAllText(TemplateData.Demo), File.ReadAllText(TemplateData.Own("demo.jinja")));
    }

    [Fact]
    public void Render_OfAConversation_IsAsTrained() => AssertRenders(
        """
        <|im_start|>system
        You are a helpful assistant.<|im_end|>
        <|im_start|>user
        What is 1 + 1?<|im_end|>
        <|im_start|>assistant
        2<|im_end|>
        <|im_start|>user
        Thanks<|im_end|>
        <|im_start|>assistant

        """,
        """{"messages": [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "Thanks"}], "add_generation_prompt": true}""");

    [Fact]
    public void Render_WithoutSystemMessage_AddsNone() => AssertRenders(
        "<|im_start|>user\nHi<|im_end|>\n", """{"messages": [{"role": "user", "content": "Hi"}]}""");

    [Fact]
    public void Render_OfAToolCall_IsAsTrained() => AssertRenders(
        """
        <|im_start|>system
        You are a helpful assistant.

        # Tools

        <tools>
        TOOL
        </tools>

        To call a tool, answer with <tool_call>
        {"name": NAME, "arguments": ARGUMENTS}
        </tool_call><|im_end|>
        <|im_start|>user
        What time is it in Oslo?<|im_end|>
        <|im_start|>assistant
        <tool_call>
        {"name": "get_time", "arguments": {"city": "Oslo"}}
        </tool_call><|im_end|>
        <|im_start|>user
        <tool_response>
        {"time": "12:30"}
        </tool_response><|im_end|>
        <|im_start|>assistant

        """,
        """
        {"messages": [{"role": "user", "content": "What time is it in Oslo?"},
          {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "get_time", "arguments": {"city": "Oslo"}}}]},
          {"role": "tool", "content": "{\"time\": \"12:30\"}"}], "tools": [TOOL], "add_generation_prompt": true}
        """);

    private static void AssertRenders(string expected, string variables) =>
        Assert.Equal(expected.Replace("TOOL", Tool), Template.RenderText(JsonNode.Parse(variables.Replace("TOOL", Tool))!.AsObject()));
}
