using System.Text.Json.Nodes;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Sampling;
using Qwen.Runtime.Templates;
using Qwen.Runtime.Tokenization;

namespace Qwen.Runtime.Engine;

/// <summary>What comes with a model besides its weights: tokenizer, chat template, sampling defaults. None of it reads the weights.</summary>
public static class ModelFiles
{
    /// <summary>The conversation format of all chat models of the family, for files that bring no template of their own.</summary>
    private const string ChatMl =
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}{% endfor %}" +
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    /// <summary>The directory of the model that ships with the engine.</summary>
    public static string DemoModel => Path.Combine(AppContext.BaseDirectory, "models", "demo");

    /// <summary>The tokenizer of a model directory, a GGUF file or a synthetic model.</summary>
    /// <exception cref="ModelFormatException">There is none, or it is damaged.</exception>
    /// <exception cref="IOException">The path can't be read.</exception>
    public static QwenTokenizer LoadTokenizer(string path)
    {
        if (Directory.Exists(path))
            return QwenTokenizer.Load(path);
        using Checkpoint checkpoint = Checkpoint.OpenOutline(path);
        return LoadTokenizer(checkpoint);
    }

    /// <summary>The chat template of a model directory or a GGUF file; ChatML where it brings none.</summary>
    /// <exception cref="ModelFormatException">The file is damaged.</exception>
    /// <exception cref="TemplateException">The template has a fault.</exception>
    public static ChatTemplate LoadTemplate(string path, QwenTokenizer tokenizer)
    {
        if (Directory.Exists(path))
            return DirectoryTemplate(path, tokenizer);
        using Checkpoint checkpoint = Checkpoint.OpenOutline(path);
        return LoadTemplate(checkpoint, tokenizer);
    }

    /// <summary>A template from its source, with the tokenizer's special tokens as variables.</summary>
    public static ChatTemplate ParseTemplate(string source, string name, QwenTokenizer tokenizer) =>
        new(source, name, tokenizer.AddedTokens.Where(t => t.IsControl).Select(t => t.Text), new TemplateOptions { ModelVariables = tokenizer.SpecialTokens });

    /// <summary>The tokenizer of a checkpoint: its folder's, or the one in its metadata.</summary>
    /// <exception cref="ModelFormatException">There is none, or it is damaged.</exception>
    public static QwenTokenizer LoadTokenizer(Checkpoint checkpoint)
    {
        if (checkpoint.Config is not null)
            return QwenTokenizer.ByteLevel(checked((int)checkpoint.Require("model.embed_tokens.weight").Shape[0]));
        if (checkpoint.Metadata is not { } metadata)
            return QwenTokenizer.Load(checkpoint.Directory);
        return metadata.Contains("tokenizer.ggml.tokens")
            ? TokenizerFiles.FromGguf(metadata, checkpoint.Path)
            : QwenTokenizer.ByteLevel(checked((int)checkpoint.Require("token_embd.weight").Shape[0]));
    }

    internal static ChatTemplate LoadTemplate(Checkpoint checkpoint, QwenTokenizer tokenizer)
    {
        if (checkpoint is { Metadata: null, Config: null })
            return DirectoryTemplate(checkpoint.Directory, tokenizer);
        return checkpoint.Metadata is { } metadata && metadata.TryGetString("tokenizer.chat_template", out string? source)
            ? ParseTemplate(source, "tokenizer.chat_template", tokenizer)
            : ParseTemplate(ChatMl, "chatml", tokenizer);
    }

    internal static GenerationDefaults LoadDefaults(Checkpoint checkpoint)
    {
        string path = Path.Combine(checkpoint.Directory, "generation_config.json");
        return checkpoint is { Metadata: null, Config: null } && File.Exists(path) ? GenerationDefaults.Load(path) : GenerationDefaults.None;
    }

    private static ChatTemplate DirectoryTemplate(string directory, QwenTokenizer tokenizer)
    {
        string jinja = Path.Combine(directory, "chat_template.jinja"), config = Path.Combine(directory, "tokenizer_config.json");
        if (File.Exists(jinja))
            return ParseTemplate(File.ReadAllText(jinja), jinja, tokenizer);
        if (File.Exists(config) && TemplateOf(JsonFields.Load(config), config) is { } source)
            return ParseTemplate(source, config, tokenizer);
        return ParseTemplate(ChatMl, "chatml", tokenizer);
    }

    /// <summary><c>chat_template</c> is a string, or a list of named ones of which the one called default is meant.</summary>
    private static string? TemplateOf(JsonObject json, string file)
    {
        if (json["chat_template"] is not JsonArray list)
            return new JsonFields(json, file).String("chat_template");
        JsonObject? chosen = list.OfType<JsonObject>().FirstOrDefault(t => t["name"]?.ToString() == "default");
        return chosen is null ? null : new JsonFields(chosen, file, "chat_template").String("template");
    }
}
