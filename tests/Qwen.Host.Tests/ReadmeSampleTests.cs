using System.Runtime.CompilerServices;
#region readme
using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

#endregion
namespace Qwen.Host.Tests;

/// <summary>The README's sample, compiled here and run; the test checks that the README has these very lines.</summary>
[Collection(nameof(Console))]
public sealed class ReadmeSampleTests
{
    [Fact]
    public async Task Sample_PrintsTheAnswer()
    {
        TextWriter console = Console.Out;
        using var output = new StringWriter { NewLine = "\n" };
        Console.SetOut(output);
        try
        {
            await SampleAsync();
        }
        finally
        {
            Console.SetOut(console);
        }

        Assert.Equal("The capital of Norway is Oslo.  [Stop, 8 tokens]\n", output.ToString());
    }

    [Fact]
    public void Readme_HasTheseLines()
    {
        string source = string.Join('\n', Sample(SourceFile()));
        string readme = File.ReadAllText(Path.Combine(Path.GetDirectoryName(SourceFile())!, "..", "..", "README.md")).ReplaceLineEndings("\n");
        Assert.Contains($"```csharp\n{source}\n```", readme, StringComparison.Ordinal);
    }

    private static async Task SampleAsync()
    {
        #region readme
        await using var engine = await QwenEngine.LoadAsync(); // the demo model; or give a path
        var options = new SamplingOptions { Temperature = 0, MaxTokens = 64 };
        await foreach (var chunk in engine.ChatAsync("What is the capital of Norway?", options))
        {
            Console.Write(chunk.Text);
            if (chunk.FinishReason is { } reason)
                Console.WriteLine($"  [{reason}, {chunk.Usage.CompletionTokens} tokens]");
        }
        #endregion
    }

    /// <summary>The lines between the marks, less their indentation.</summary>
    private static IEnumerable<string> Sample(string file)
    {
        bool inside = false;
        foreach (string line in File.ReadLines(file))
        {
            if (line.Trim() == "#region readme")
                inside = true;
            else if (line.Trim() == "#endregion")
                inside = false;
            else if (inside)
                yield return line.StartsWith("        ", StringComparison.Ordinal) ? line[8..] : line;
        }
    }

    private static string SourceFile([CallerFilePath] string path = "") => path;
}
