using Qwen.Native.Device;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Backends.Cuda;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Models;

namespace Qwen.DeviceCheck;

/// <summary>
/// The least time that a step of a network can take on this device: of each op, the larger of its bytes over the measured copy bandwidth and its
/// operations over the measured rate of the matrix library in its type, summed. Bytes are weights, keys and values, and logits, written and
/// read; activations stay in the cache, and norms and rotations count as nothing.
/// </summary>
/// <param name="session">What was measured of the device.</param>
/// <param name="model">The network.</param>
internal sealed class StepRoofline(CheckSession session, LoadedModel model)
{
    private readonly ModelConfig _config = model.Config;
    private readonly LinearWeights[] _layers = [.. model.Network.Projections.Where(p => p.Outputs != model.Config.VocabularySize)];
    private readonly LinearWeights _output = model.Network.Projections.Last(p => p.Outputs == model.Config.VocabularySize);

    /// <summary>Seconds of a step in which sequences of a context get a token each.</summary>
    public double Decode(int batch, double context) =>
        Projections(batch) + Logits(batch) + Seconds(batch * context * model.KvBytesPerToken, batch * AttentionOperations * context, ElementType.BF16);

    /// <summary>Seconds of a step that reads a prompt.</summary>
    public double Prefill(int tokens) =>
        Projections(tokens) + Logits(1) + Seconds((double)tokens * model.KvBytesPerToken, AttentionOperations * tokens * (tokens + 1.0) / 2, ElementType.BF16);

    /// <summary>Operations of a step that reads a prompt.</summary>
    public double PrefillOperations(int tokens) =>
        (_layers.Sum(p => 2.0 * p.Inputs * p.Outputs) * tokens) + (2.0 * _output.Inputs * _output.Outputs) + (AttentionOperations * tokens * (tokens + 1.0) / 2);

    /// <summary>Of a query with a key and a value, over all layers.</summary>
    private double AttentionOperations => 4.0 * _config.Heads * _config.HeadDim * _config.Layers;

    private double Projections(int rows) => _layers.Sum(p => Product(p, rows));

    private double Logits(int rows) => Product(_output, rows) + (2.0 * rows * _config.VocabularySize * sizeof(float) / session.CopyBandwidth);

    private double Product(LinearWeights p, int rows) => Seconds(p.ByteCount, 2.0 * rows * p.Inputs * p.Outputs, p is Float8Linear ? ElementType.E4M3 : ElementType.BF16);

    private double Seconds(double bytes, double operations, ElementType type) => Math.Max(bytes / session.CopyBandwidth, operations / session.OperationRate(type));
}
