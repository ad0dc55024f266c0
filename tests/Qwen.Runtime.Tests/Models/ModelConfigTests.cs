using System.Text.Json.Nodes;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;

namespace Qwen.Runtime.Tests.Models;

public sealed class ModelConfigTests
{
    private const string Qwen2 = """
        {"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
         "intermediate_size": 4864, "vocab_size": 151936, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "max_position_embeddings": 32768,
         "tie_word_embeddings": true, "hidden_act": "silu", "use_sliding_window": false, "sliding_window": 32768, "max_window_layers": 21,
         "eos_token_id": 151645}
        """;

    [Fact]
    public void FromJson_ReadsQwen2()
    {
        ModelConfig config = Read(Qwen2);
        Assert.Equal((896, 24, 14, 2, 64, 4864), (config.HiddenSize, config.Layers, config.Heads, config.KvHeads, config.HeadDim, config.IntermediateSize));
        Assert.True(config.TiedEmbeddings);
        Assert.False(config.HasQkNorm);
        Assert.Equal(0, config.WindowOf(23)); // the window is off
        Assert.Equal([151645], config.EosTokenIds);
    }

    [Fact]
    public void FromJson_TakesHeadDimFromQwen3()
    {
        ModelConfig config = Read(With(("model_type", "qwen3"), ("head_dim", 128)));
        Assert.True(config.HasQkNorm);
        Assert.Equal(128, config.HeadDim);
    }

    [Fact]
    public void WindowOf_AppliesFromTheFirstWindowedLayer()
    {
        ModelConfig config = Read(With(("use_sliding_window", true), ("sliding_window", 4096)));
        Assert.Equal((0, 4096), (config.WindowOf(20), config.WindowOf(21)));
    }

    [Fact]
    public void FromJson_ReadsYarn_UnderBothNames()
    {
        foreach (string name in (string[])["rope_scaling", "rope_parameters"])
        {
            ModelConfig config = Read(With((name, JsonNode.Parse("""{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1000000}"""))));
            Assert.Equal(RopeScalingKind.Yarn, config.RopeScaling.Kind);
            Assert.Equal(131072, config.ScaledContext);
            Assert.Equal(1e6, config.RopeTheta);
        }
    }

    [Theory]
    [InlineData("model_type", "\"llama\"", "'llama' is not supported")]
    [InlineData("model_type", "7", "model_type: 7 is not a string")]
    [InlineData("hidden_size", "\"x\"", "hidden_size: x is not a 32-bit whole number")]
    [InlineData("hidden_size", "99999999999", "hidden_size: 99999999999 is not a 32-bit whole number")]
    [InlineData("hidden_size", "0", "hidden_size 0 is not between 1 and")]
    [InlineData("num_hidden_layers", "-1", "num_hidden_layers -1")]
    [InlineData("num_key_value_heads", "3", "14 is not a multiple of num_key_value_heads 3")]
    [InlineData("rms_norm_eps", "-1", "rms_norm_eps -1")]
    [InlineData("rope_theta", "0", "rope_theta 0")]
    [InlineData("vocab_size", "null", "vocab_size: is missing")]
    [InlineData("rope_scaling", "{\"type\": \"longrope\"}", "rope_scaling.rope_type: 'longrope' is not known")]
    [InlineData("rope_scaling", "{\"type\": \"yarn\", \"factor\": 0.5}", "factor 0.5 is not between")]
    [InlineData("rope_scaling", "[1]", "rope_scaling: [1] is not an object")]
    [InlineData("eos_token_id", "[1, \"x\"]", "eos_token_id: \"x\" is not a token id")]
    [InlineData("hidden_act", "\"gelu\"", "'gelu' is not supported")]
    [InlineData("quantization_config", "{\"quant_method\": \"bitnet\"}", "quantization_config.quant_method: 'bitnet' is not supported")]
    public void FromJson_NamesFileFieldAndValue(string field, string value, string message)
    {
        ModelFormatException error = Assert.Throws<ModelFormatException>(() => Read(With((field, JsonNode.Parse(value)))));
        Assert.Contains("config.json", error.Message, StringComparison.Ordinal);
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    /// <summary>Whatever the values, a config is either read, with sizes in range, or refused with the one exception.</summary>
    [Fact]
    public void FromJson_SurvivesRandomValues()
    {
        string[] names = [.. JsonNode.Parse(Qwen2)!.AsObject().Select(p => p.Key), "rope_scaling", "rope_parameters", "head_dim", "quantization_config"];
        string[] values = ["null", "0", "-1", "1", "7", "128", "1e300", "-0.5", "2147483648", "\"a\"", "true", "[]", "[1]", "{}", "[[]]", """{"type":"yarn","factor":1e9}""", """{"factor":2}"""];
        var random = new Random(1);
        int read = 0;
        for (int i = 0; i < 20000; i++)
        {
            JsonObject json = JsonNode.Parse(Qwen2)!.AsObject();
            for (int n = random.Next(1, 4); n > 0; n--)
                json[names[random.Next(names.Length)]] = JsonNode.Parse(values[random.Next(values.Length)]);
            try
            {
                ModelConfig config = ModelConfig.FromJson(json, "config.json");
                Assert.InRange(config.ScaledContext, 1, 1 << 24);
                Assert.True(config.Heads % config.KvHeads == 0 && config.HeadDim % 8 == 0);
                read++;
            }
            catch (ModelFormatException)
            {
            }
        }

        Assert.InRange(read, 100, 19900);
    }

    private static JsonObject With(params (string Name, JsonNode? Value)[] changes)
    {
        JsonObject json = JsonNode.Parse(Qwen2)!.AsObject();
        foreach ((string name, JsonNode? value) in changes)
            json[name] = value;
        return json;
    }

    private static ModelConfig Read(string json) => Read(JsonNode.Parse(json)!.AsObject());

    private static ModelConfig Read(JsonObject json) => ModelConfig.FromJson(json, "config.json");
}
