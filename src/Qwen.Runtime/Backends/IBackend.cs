using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;
using Qwen.Runtime.Scheduling;

namespace Qwen.Runtime.Backends;

/// <summary>A matrix of activations [Rows, Columns] in a backend's memory.</summary>
/// <param name="rows">Most tokens it holds.</param>
/// <param name="columns">Width.</param>
public abstract class Activations(int rows, int columns) : IDisposable
{
    /// <summary>Most tokens it holds.</summary>
    public int Rows { get; } = rows;

    /// <summary>Width.</summary>
    public int Columns { get; } = columns;

    /// <inheritdoc/>
    public abstract void Dispose();
}

/// <summary>A projection in the form its backend computes on: one matrix, or several stacked (query, key and value; gate and up).</summary>
/// <param name="inputs">Columns of the matrix.</param>
/// <param name="outputs">Rows of all stacked matrices.</param>
public abstract class LinearWeights(int inputs, int outputs) : IDisposable
{
    /// <summary>Columns of the matrix.</summary>
    public int Inputs { get; } = inputs;

    /// <summary>Rows of all stacked matrices.</summary>
    public int Outputs { get; } = outputs;

    /// <summary>Bytes a product with one token reads: matrices, scales and biases in the form they are held in.</summary>
    public abstract long ByteCount { get; }

    /// <inheritdoc/>
    public abstract void Dispose();
}

/// <summary>A vector of F32 weights: a norm.</summary>
/// <param name="length">Elements.</param>
public abstract class VectorWeights(int length) : IDisposable
{
    /// <summary>Elements.</summary>
    public int Length { get; } = length;

    /// <inheritdoc/>
    public abstract void Dispose();
}

/// <summary>In what an activation matrix is held.</summary>
public enum ActivationPrecision
{
    /// <summary>The backend's own choice: what goes from one op to the next within a layer.</summary>
    Working,

    /// <summary>F32 on every backend: the residual stream, which crosses from one to another, and logits.</summary>
    Full,
}

/// <summary>The rotary angles of a model: at position p, pair i turns by p * InverseFrequencies[i].</summary>
/// <param name="InverseFrequencies">[headDim / 2], radians per position, any scaling already applied.</param>
/// <param name="Magnitude">Factor on cosine and sine: YaRN's attention factor, else 1.</param>
/// <param name="Positions">Longest sequence.</param>
public sealed record RotaryAngles(double[] InverseFrequencies, double Magnitude, int Positions);

/// <summary>What a KV cache holds, and how.</summary>
/// <param name="Layers">Layers.</param>
/// <param name="KvHeads">Key and value heads of a layer.</param>
/// <param name="HeadDim">Width of a head.</param>
/// <param name="Type">How a value is stored.</param>
/// <param name="Blocks">Blocks.</param>
/// <param name="BlockSize">Tokens per block.</param>
/// <param name="Rotary">The angles that cached keys are turned by.</param>
public sealed record KvCacheShape(int Layers, int KvHeads, int HeadDim, KvCacheType Type, int Blocks, int BlockSize, RotaryAngles Rotary);

/// <summary>
/// The paged keys and values of all layers that a backend computes. What moves whole blocks is here, so that the block pool, the prefix
/// index and what saves prefixes to disk need not know the device; it is called between steps, from the thread that runs them.
/// </summary>
public abstract class KvCache : IDisposable
{
    /// <summary>Bytes of a block: keys, values and scales of all layers.</summary>
    public abstract long BlockBytes { get; }

    /// <summary>How the bytes of a block are laid out: blocks can be read back by a cache of the same layout, and by no other.</summary>
    public abstract string Layout { get; }

    /// <summary>Copies whole blocks, one after the other: a block may be read by one copy and written by a later one.</summary>
    public abstract void CopyBlocks(ReadOnlySpan<BlockCopy> copies);

    /// <summary>Reads a block: [<see cref="BlockBytes"/>], once all steps before are done.</summary>
    public abstract void ReadBlock(int block, Span<byte> bytes);

    /// <summary>Writes a block that <see cref="ReadBlock"/> read.</summary>
    public abstract void WriteBlock(int block, ReadOnlySpan<byte> bytes);

    /// <inheritdoc/>
    public abstract void Dispose();
}

/// <summary>A block of the cache that is copied to another.</summary>
/// <param name="From">Read.</param>
/// <param name="To">Written.</param>
public readonly record struct BlockCopy(int From, int To);

/// <summary>What a layer's attention needs to know besides its input.</summary>
/// <param name="Layer">Layer of its backend's cache, from 0.</param>
/// <param name="Heads">Query heads.</param>
/// <param name="KvHeads">Key and value heads.</param>
/// <param name="HeadDim">Width of a head.</param>
/// <param name="SlidingWindow">Keys a query sees; 0 for all.</param>
/// <param name="QueryNorm">Qwen3's norm of each query head; null for none.</param>
/// <param name="KeyNorm">Qwen3's norm of each key head; null for none.</param>
/// <param name="NormEpsilon">Epsilon of those norms.</param>
/// <param name="KeyBias">Qwen2's bias of the keys, [KvHeads, HeadDim], which the projection adds; null for none. A quantized cache holds keys without it.</param>
public sealed record AttentionLayer(
    int Layer, int Heads, int KvHeads, int HeadDim, int SlidingWindow, VectorWeights? QueryNorm, VectorWeights? KeyNorm, float NormEpsilon, VectorWeights? KeyBias);

/// <summary>The norm of a hidden state, as <see cref="IBackend.RmsNorm"/> has it.</summary>
/// <param name="Weight">The norm's.</param>
/// <param name="Epsilon">Keeps a row of zeros finite.</param>
/// <param name="Result">The result.</param>
/// <param name="Next">The product that the result is for, and nothing else: a backend may leave a part of the norm to it.</param>
public readonly record struct HiddenNorm(VectorWeights Weight, float Epsilon, Activations Result, LinearWeights Next);

/// <summary>Takes weights from a checkpoint into the form that something computes on.</summary>
public interface IWeightTarget
{
    /// <summary>Takes matrices [outputs, inputs] that share their inputs as one projection, with an optional bias for each.</summary>
    /// <exception cref="ModelFormatException">A type or a shape the backend can't compute on.</exception>
    LinearWeights LoadLinear(IReadOnlyList<StoredMatrix> matrices, IReadOnlyList<Tensor?> biases);

    /// <summary>Takes a vector.</summary>
    /// <exception cref="ModelFormatException">A type or a shape that is no vector.</exception>
    VectorWeights LoadVector(Tensor vector);
}

/// <summary>
/// The vocabulary a Qwen network is written in (see <see cref="NetworkStage"/>), on memory that the backend itself allocated.
/// Ops work on the tokens of the batch given to <see cref="Begin"/>, are called from one thread, and allocate nothing on the managed heap.
/// </summary>
public interface IBackend : IWeightTarget, IDisposable
{
    /// <summary>What computes, for people: <c>cpu (AVX-512, 2 threads)</c>.</summary>
    string Name { get; }

    /// <summary>Room for <paramref name="rows"/> tokens of <paramref name="columns"/> values.</summary>
    Activations Allocate(int rows, int columns, ActivationPrecision precision);

    /// <summary>What chooses tokens where their logits lie; null where the host does it as well.</summary>
    /// <param name="logits">Full activations, [rows, vocabulary with padding].</param>
    LogitSampler? AllocateSampler(Activations logits);

    /// <summary>A cache for the layers that this backend computes.</summary>
    KvCache AllocateCache(KvCacheShape shape);

    /// <summary>Starts a step: the ops that follow work on this batch and its sequences' cached keys and values.</summary>
    void Begin(Batch batch, KvCache cache);

    /// <summary>
    /// Runs the ops that <paramref name="ops"/> calls on this backend. A backend may note the calls, and run them again in later steps of the
    /// same make without calling <paramref name="ops"/>: so they depend on nothing but the number of tokens and logit rows.
    /// </summary>
    /// <param name="ops">The same object for the same ops.</param>
    void Run(Action ops);

    /// <summary>hidden[t, :] = table[token of t, :].</summary>
    void Embed(LinearWeights table, Activations hidden);

    /// <summary>y[t, :] = x[t, :] / rms(x[t, :]) * weight, for the first <paramref name="rows"/> rows.</summary>
    /// <param name="x">What is normed.</param>
    /// <param name="weight">The norm's.</param>
    /// <param name="epsilon">Keeps a row of zeros finite.</param>
    /// <param name="y">The result.</param>
    /// <param name="rows">Rows.</param>
    /// <param name="next">The product that y is for, and nothing else: a backend may write y in the form which that wants.</param>
    void RmsNorm(Activations x, VectorWeights weight, float epsilon, Activations y, int rows, LinearWeights next);

    /// <summary>y[t, :] = W x[t, :] + bias, for the first <paramref name="rows"/> rows.</summary>
    void Linear(Activations x, LinearWeights weights, Activations y, int rows);

    /// <summary>hidden[t, :] += W x[t, :] + bias, for the first <paramref name="rows"/> rows; and the norm of that, where one follows.</summary>
    void AddLinear(Activations x, LinearWeights weights, Activations hidden, int rows, HiddenNorm? norm);

    /// <summary>Norms (Qwen3) and rotates queries and keys of qkv [tokens, query | key | value] in place, and writes keys and values to the cache.</summary>
    void RopeAndStore(Activations qkv, AttentionLayer layer);

    /// <summary>Paged, causal, grouped-query attention of the batch's queries over the cache.</summary>
    void Attention(Activations qkv, AttentionLayer layer, Activations attended);

    /// <summary>y[t, :] = SiLU(gate x[t, :]) * (up x[t, :]), where gate and up are stacked in that order.</summary>
    /// <param name="x">The inputs.</param>
    /// <param name="gateUp">Gate and up.</param>
    /// <param name="y">The result.</param>
    /// <param name="next">The product that y is for, as for <see cref="RmsNorm"/>.</param>
    void GatedLinear(Activations x, LinearWeights gateUp, Activations y, LinearWeights next);

    /// <summary>selected[i, :] = hidden[batch.LogitRows[i], :], for all <paramref name="rows"/> of them.</summary>
    void SelectLogitRows(Activations hidden, Activations selected, int rows);

    /// <summary>Rows of <see cref="ActivationPrecision.Full"/> activations in host memory, once all ops before are done. Valid, and free to change, until the next step; until then they are read once, and seen as they were changed.</summary>
    Span<float> Read(Activations activations, int firstRow, int rows);

    /// <summary>Sets the first rows of <see cref="ActivationPrecision.Full"/> activations.</summary>
    void Write(ReadOnlySpan<float> values, Activations activations);

    /// <summary>Waits until all ops are done.</summary>
    void Synchronize();

    /// <summary>What the memory that weights lie in gives to a reader, in bytes per second.</summary>
    double MeasureReadBandwidth();
}
