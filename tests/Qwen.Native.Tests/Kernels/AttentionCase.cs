using System.Runtime.InteropServices;
using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.Native.Tests.Kernels;

/// <summary>
/// A random paged cache with sequences in it, on a device and in double precision. Memory that belongs to no position is left as it was allocated, and
/// entries of block tables that are not needed are wild, so that a device that checks reports who reads them.
/// </summary>
/// <remarks>
/// Sequences of one token may be decoded: of these, qkv is what a projection makes, and the last position isn't cached yet. What <see cref="RopeAndStoreKernel"/>,
/// which has tests of its own, makes of a copy is what attention is to find, and to have stored, bit for bit.
/// </remarks>
internal sealed unsafe class AttentionCase : IDisposable
{
    private const double Magnitude = 1.1; // YaRN's

    private readonly IDeviceStream _stream;
    private readonly List<DeviceBuffer> _buffers = [];
    private readonly IDevice _device;
    private readonly AttentionShape _shape;
    private readonly (int FirstPosition, int Tokens)[] _sequences;
    private readonly float[] _qkv, _bias, _rotations;
    private readonly double[][][] _keys, _values; // [sequence][kvHead][position, dim]
    private readonly DeviceBuffer _attended;
    private readonly DeviceBuffer[] _cached, _expected = []; // keys, values, scales of both; the second with what is to be stored of decoded tokens
    private readonly List<(int Sequence, long Vector)> _stored = [];
    private readonly int _tokens;
    private readonly int[] _firstTokens;

    public AttentionCase(IDevice device, IDeviceStream stream, AttentionShape shape, (int FirstPosition, int Tokens)[] sequences, int seed, float biasSize = 20, KernelCache? decoded = null)
    {
        (_device, _stream, _shape, _sequences, Seed) = (device, stream, shape, sequences, seed);
        var random = new Random(seed);
        _tokens = Math.Max(1, sequences.Sum(s => s.Tokens));
        (int kvHeads, int headDim, int blockSize) = (shape.KvHeads, shape.HeadDim, shape.BlockSize);

        _bias = Normal(random, kvHeads * headDim, biasSize, x => x);
        _qkv = Normal(random, _tokens * (shape.Heads + (2 * kvHeads)) * headDim, 1.5f, x => Values.Round(shape.Type, x));
        for (int i = 0; decoded is not null && shape.HasKeyBias && i < _tokens * kvHeads * headDim; i++) // projections give keys with their bias
        {
            ref float key = ref _qkv[(((i / (kvHeads * headDim) * (shape.Heads + (2 * kvHeads))) + shape.Heads) * headDim) + (i % (kvHeads * headDim))];
            key = Values.Round(shape.Type, key + _bias[i % _bias.Length]);
        }

        Qkv = Upload(Values.Encode(shape.Type, _qkv));
        _attended = Take((long)_tokens * shape.Heads * headDim * sizeof(ushort));

        int[] blocks = [.. sequences.Select(s => s.Tokens == 0 ? 0 : (s.FirstPosition + s.Tokens + blockSize - 1) / blockSize)];
        int perSequence = Math.Max(1, blocks.Max()) + 1, pool = blocks.Sum() + 3;
        int[] order = [.. Enumerable.Range(0, pool)];
        random.Shuffle(order);
        int[] table = new int[sequences.Length * perSequence];
        Array.Fill(table, 0x00ff_ffff); // far outside
        long rowBytes = headDim * shape.Cache.Bytes(), vectors = (long)pool * kvHeads * blockSize;
        _cached = [Take(vectors * rowBytes), Take(vectors * rowBytes), Take(vectors * sizeof(float)), Take(vectors * sizeof(float))];
        (_keys, _values) = (new double[sequences.Length][][], new double[sequences.Length][][]);
        for (int s = 0, next = 0; s < sequences.Length; s++)
        {
            int length = sequences[s].Tokens == 0 ? 0 : sequences[s].FirstPosition + sequences[s].Tokens;
            // A window's blocks may have been given back.
            int firstBlock = shape.SlidingWindow == 0 ? 0 : Math.Max(0, sequences[s].FirstPosition + 1 - shape.SlidingWindow) / blockSize;
            for (int b = firstBlock; b < blocks[s]; b++)
                table[(s * perSequence) + b] = order[next + b];
            int cached = decoded is not null && sequences[s].Tokens == 1 ? length - 1 : length;
            _keys[s] = Fill(_cached[0], _cached[2]);
            _values[s] = Fill(_cached[1], _cached[3]);
            next += blocks[s];
            for (int h = 0; cached < length && h < kvHeads; h++)
                _stored.Add((s, ((((long)table[(s * perSequence) + (cached / blockSize)] * kvHeads) + h) * blockSize) + (cached % blockSize)));

            double[][] Fill(DeviceBuffer buffer, DeviceBuffer scales)
            {
                var heads = new double[kvHeads][];
                for (int h = 0; h < kvHeads; h++)
                {
                    heads[h] = new double[length * headDim];
                    for (int b = firstBlock; b < blocks[s]; b++)
                    {
                        int rows = Math.Min(blockSize, cached - (b * blockSize));
                        if (rows == 0)
                            continue;
                        float[] x = Normal(random, rows * headDim, 1, x => x);
                        (byte[] codes, float[] rowScales, double[] exact) = Values.Quantize(shape.Cache, x, headDim);
                        exact.CopyTo(heads[h], b * blockSize * headDim);
                        long vector = (((long)table[(s * perSequence) + b] * kvHeads) + h) * blockSize;
                        Copy(buffer.Pointer + (vector * rowBytes), codes);
                        if (shape.Cache == ElementType.S8)
                            Copy(scales.Pointer + (vector * sizeof(float)), MemoryMarshal.AsBytes<float>(rowScales).ToArray());
                    }
                }

                return heads;
            }
        }

        int positions = Math.Max(64, sequences.Max(s => s.FirstPosition + s.Tokens));
        _rotations = new float[positions * headDim];
        for (int p = 0; p < positions; p++)
        {
            for (int i = 0; i < headDim / 2; i++)
            {
                (double sin, double cos) = Math.SinCos(p * Math.Pow(10000, -2.0 * i / headDim));
                (_rotations[(p * headDim) + (2 * i)], _rotations[(p * headDim) + (2 * i) + 1]) = ((float)(cos * Magnitude), (float)(sin * Magnitude));
            }
        }

        Layer = LayerOf(_cached);
        DevicePointer rotations = Upload<float>(_rotations);
        Bias = shape.HasKeyBias ? new KeyBiasPointers(Upload<float>(_bias), rotations) : default;
        Rotary = new RotaryPointers(
            rotations, Bias.Bias, shape.HasQkNorm ? Upload<float>(Normal(random, headDim, 1, x => x)) : default, shape.HasQkNorm ? Upload<float>(Normal(random, headDim, 1, x => x)) : default, 1e-6f);
        _firstTokens = new int[sequences.Length];
        for (int s = 1; s < sequences.Length; s++)
            _firstTokens[s] = _firstTokens[s - 1] + sequences[s - 1].Tokens;
        Table = new SequenceTable(
            Upload<int>(_firstTokens), Upload<int>([.. sequences.Select(s => s.Tokens)]), Upload<int>([.. sequences.Select(s => s.FirstPosition)]), Upload<int>(table), perSequence);
        if (decoded is null)
            return;
        _expected = [.. _cached.Select(buffer => Take(buffer.ByteCount))];
        Turn(decoded);
    }

    public int Seed { get; }

    public DevicePointer Qkv { get; }

    public DevicePointer Attended => _attended.Pointer;

    public KvLayerPointers Layer { get; }

    public KeyBiasPointers Bias { get; }

    public RotaryPointers Rotary { get; }

    public SequenceTable Table { get; }

    /// <summary>Some sequences as decode attention takes them.</summary>
    public DecodingSequences Decoding(params ReadOnlySpan<int> served)
    {
        int[] entries = new int[served.Length * 4];
        for (int i = 0; i < served.Length; i++)
        {
            (int firstPosition, int tokens) = _sequences[served[i]];
            (entries[4 * i], entries[(4 * i) + 1], entries[(4 * i) + 2]) = (served[i], _firstTokens[served[i]], tokens == 0 ? 0 : firstPosition + 1);
        }

        return new DecodingSequences(Upload<int>(entries), served.Length, Table.BlockTables, Table.BlocksPerSequence);
    }

    public DevicePointer Upload<T>(ReadOnlySpan<T> values)
        where T : unmanaged
    {
        byte[] bytes = MemoryMarshal.AsBytes(values).ToArray();
        DeviceBuffer buffer = Take(Math.Max(1, bytes.Length));
        Copy(buffer.Pointer, bytes);
        return buffer.Pointer;
    }

    public DeviceBuffer Take(long bytes)
    {
        DeviceBuffer buffer = _device.Allocate(bytes);
        _buffers.Add(buffer);
        return buffer;
    }

    /// <summary>Zeros, as the workspace begins.</summary>
    public DevicePointer TakeZeros(long bytes)
    {
        DeviceBuffer buffer = Take(bytes);
        _stream.Fill(buffer.Pointer, 0, bytes);
        return buffer.Pointer;
    }

    /// <summary>What is wrong with the rows of some sequences, and with what was stored of decoded ones, or null.</summary>
    public string? Difference(ReadOnlySpan<int> served)
    {
        int width = _shape.Heads * _shape.HeadDim;
        foreach (int s in served)
        {
            if (_sequences[s].Tokens == 0)
                continue;
            foreach ((_, long vector) in _stored.Where(row => row.Sequence == s))
            {
                for (int part = 0; part < (_shape.Cache == ElementType.S8 ? 4 : 2); part++)
                {
                    int rowBytes = part < 2 ? _shape.RowBytes : sizeof(float);
                    if (!Read(_cached[part].Pointer + (vector * rowBytes), rowBytes).AsSpan().SequenceEqual(Read(_expected[part].Pointer + (vector * rowBytes), rowBytes)))
                        return $"{_shape}, seed {Seed}: sequence {s} {_sequences[s]}: the new {(part % 2 == 0 ? "key" : "value")}{(part < 2 ? "" : "'s scale")} is cached otherwise";
                }
            }

            byte[] bytes = Read(_attended.Pointer + ((long)_firstTokens[s] * width * sizeof(ushort)), _sequences[s].Tokens * width * sizeof(ushort));
            float[] actual = Values.Decode(_shape.Type, bytes);
            for (int token = 0; token < _sequences[s].Tokens; token++)
            {
                for (int head = 0; head < _shape.Heads; head++)
                {
                    (double[] expected, double[] bound) = Reference(s, token, head);
                    for (int d = 0; d < expected.Length; d++)
                    {
                        double value = actual[(token * width) + (head * _shape.HeadDim) + d];
                        if (!(Math.Abs(value - expected[d]) <= bound[d]))
                            return $"{_shape}, seed {Seed}: sequence {s} {_sequences[s]}, token {token}, head {head}, column {d} is {value}, not {expected[d]} +- {bound[d]:g3}";
                    }
                }
            }
        }

        return null;
    }

    public void Dispose()
    {
        foreach (DeviceBuffer buffer in _buffers)
            buffer.Dispose();
    }

    /// <summary>
    /// The result, and how far a kernel may be off. With u the unit roundoff of the 16-bit types in play: the result is rounded (u |o|); weights are (u times
    /// the weighted sum of |v|), and values that are not exact in the operands' type. An error d of a score changes its weight, and the sum of
    /// weights, by a factor e^d each (2 d times the weighted sum of |v|); scores err by their F32 sums, and by operands that had to be rounded.
    /// </summary>
    private (double[] Expected, double[] Bound) Reference(int s, int token, int head)
    {
        int headDim = _shape.HeadDim, kvHead = head / (_shape.Heads / _shape.KvHeads), position = _sequences[s].FirstPosition + token;
        int from = _shape.SlidingWindow == 0 ? 0 : Math.Max(0, position + 1 - _shape.SlidingWindow);
        ReadOnlySpan<float> q = _qkv.AsSpan(((_firstTokens[s] + token) * (_shape.Heads + (2 * _shape.KvHeads)) * headDim) + (head * headDim), headDim);
        ReadOnlySpan<double> keys = _keys[s][kvHead], values = _values[s][kvHead];
        double[] scores = new double[position + 1 - from];
        double scale = 1 / Math.Sqrt(headDim), largestSum = 0, largestBiasSum = 0;
        for (int p = from; p <= position; p++)
        {
            double dot = 0, absolute = 0;
            for (int d = 0; d < headDim; d++)
            {
                dot += q[d] * keys[(p * headDim) + d];
                absolute += Math.Abs(q[d] * keys[(p * headDim) + d]);
            }

            if (_shape.HasKeyBias)
            {
                double biasSum = 0;
                for (int i = 0; i < headDim / 2; i++)
                {
                    double first = _bias[(kvHead * headDim) + i], second = _bias[(kvHead * headDim) + (headDim / 2) + i];
                    (double sin, double cos) = Math.SinCos(p * Math.Pow(10000, -2.0 * i / headDim));
                    dot += Magnitude * ((q[i] * ((first * cos) - (second * sin))) + (q[(headDim / 2) + i] * ((second * cos) + (first * sin))));
                    biasSum += Math.Abs(q[i]) * (Math.Abs(first) + Math.Abs(second)) + (Math.Abs(q[(headDim / 2) + i]) * (Math.Abs(first) + Math.Abs(second)));
                }

                largestBiasSum = Math.Max(largestBiasSum, biasSum);
            }

            scores[p - from] = dot * scale;
            largestSum = Math.Max(largestSum, absolute);
        }

        double unit(ElementType type) => type == ElementType.F16 ? Math.ScaleB(1, -11) : Math.ScaleB(1, -8); // of BF16, 2^-9 and as much again: it may be rounded twice
        ElementType operands = _shape.Cache switch { ElementType.F32 => _shape.Type, ElementType.F16 or ElementType.BF16 => _shape.Cache, _ => ElementType.F16 };
        double rounded = (_shape.Type == ElementType.F16 && operands == ElementType.BF16) || _shape.Cache == ElementType.F32 ? unit(operands) : 0;
        double valueError = _shape.Cache is ElementType.F32 or ElementType.S8 ? 2 * unit(operands) : 0;
        double scoreError = scale * ((largestSum * (rounded + (headDim * Math.ScaleB(1, -23)))) + (largestBiasSum * BiasError));
        double largest = scores.Max(), sum = scores.Sum(x => Math.Exp(x - largest));
        double[] expected = new double[headDim], bound = new double[headDim];
        for (int d = 0; d < headDim; d++)
        {
            double absolute = 0;
            for (int p = from; p <= position; p++)
            {
                double weight = Math.Exp(scores[p - from] - largest) / sum, value = values[(p * headDim) + d];
                expected[d] += weight * value;
                absolute += weight * Math.Abs(value);
            }

            bound[d] = (unit(_shape.Type) * Math.Abs(expected[d])) + (absolute * (unit(operands) + valueError + (2 * scoreError) + 1e-5)) + 1e-6;
        }

        return (expected, bound);
    }

    /// <summary>Of the share of the bias in a score, to the sum of magnitudes: 22 bits kept of each factor, angles that were rounded to F32, and F32 sums.</summary>
    public double BiasError { get; init; } = Math.ScaleB(1, -20);

    private static float[] Normal(Random random, int count, float deviation, Func<float, float> round)
    {
        float[] values = new float[count];
        for (int i = 0; i < count; i++)
            values[i] = round((float)(deviation * Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble())));
        return values;
    }

    private static KvLayerPointers LayerOf(DeviceBuffer[] parts) => new(parts[0].Pointer, parts[1].Pointer, parts[2].Pointer, parts[3].Pointer);

    /// <summary>Takes what attention finds of decoded tokens from a copy of qkv and another cache.</summary>
    private void Turn(KernelCache kernels)
    {
        (int kvHeads, int headDim, int blockSize) = (_shape.KvHeads, _shape.HeadDim, _shape.BlockSize);
        int[] positions = new int[_tokens], slots = new int[_tokens];
        positions.AsSpan().Fill(-1);
        foreach ((int s, long vector) in _stored)
            (positions[_firstTokens[s]], slots[_firstTokens[s]]) = (_sequences[s].FirstPosition, (int)((vector / (kvHeads * blockSize) * blockSize) + (vector % blockSize)));
        DevicePointer turned = Upload(Values.Encode(_shape.Type, _qkv));
        new RopeAndStoreKernel(kernels, _shape.RopeAndStore).Launch(
            _stream, turned, Upload<int>(positions), Upload<int>(slots), Rotary.Rotations, LayerOf(_expected), _tokens, Rotary.QueryNorm, Rotary.KeyNorm, Rotary.Epsilon, Rotary.KeyBias);
        Values.Decode(_shape.Type, Read(turned, _qkv.Length * sizeof(ushort))).CopyTo(_qkv, 0);
        foreach ((int s, long vector) in _stored)
        {
            int head = (int)(vector / blockSize % kvHeads), at = _sequences[s].FirstPosition * headDim;
            for (int part = 0; part < 2; part++)
            {
                float scale = _shape.Cache == ElementType.S8 ? BitConverter.ToSingle(Read(_expected[2 + part].Pointer + (vector * sizeof(float)), sizeof(float))) : 1;
                float[] row = Values.DecodeCached(_shape.Cache, Read(_expected[part].Pointer + (vector * _shape.RowBytes), _shape.RowBytes));
                for (int d = 0; d < headDim; d++)
                    (part == 0 ? _keys : _values)[s][head][at + d] = row[d] * (double)scale;
            }
        }
    }

    private byte[] Read(DevicePointer from, int count)
    {
        byte[] bytes = new byte[count];
        fixed (byte* to = bytes)
            _stream.CopyToHost(to, from, count);
        _stream.Synchronize();
        return bytes;
    }

    private DevicePointer Upload(byte[] bytes) => Upload<byte>(bytes);

    private void Copy(DevicePointer to, byte[] bytes)
    {
        fixed (byte* from = bytes)
        {
            _stream.CopyToDevice(to, from, bytes.Length);
            _stream.Synchronize();
        }
    }
}
