using Qwen.Cpu;
using Qwen.Runtime.Backends;
using Qwen.Runtime.Formats;
using Qwen.Runtime.Tests.Formats;

namespace Qwen.Runtime.Tests.Backends;

public sealed unsafe class GroupRepackerTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("qwen-repack-").FullName;
    private readonly WorkerPool _pool = new(3);

    public static TheoryData<int> Repacked => [.. Enumerable.Range(0, RepackedSchemes.Length)];

    public static TheoryData<int> Widened => [.. Enumerable.Range(0, WidenedSchemes.Length)];

    private static Scheme[] RepackedSchemes { get; } = [.. QuantizedSchemes.Repacked()];

    private static Scheme[] WidenedSchemes { get; } = [.. QuantizedSchemes.Widened()];

    public void Dispose()
    {
        _pool.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    /// <summary>The blocks mean exactly the values that were packed; 680 rows are a tile of 512 and a part of one.</summary>
    [Theory]
    [MemberData(nameof(Repacked))]
    public void Blocks_HoldExactlyTheValues(int index)
    {
        Scheme scheme = RepackedSchemes[index];
        const int Rows = 680, Columns = 256;
        float[] expected = Write(scheme, Rows, Columns);
        using Checkpoint checkpoint = Checkpoint.Open(_folder);
        using CpuLinearWeights weights = Load(checkpoint, scheme, ("m", Rows, Columns));
        WeightMatrix w = weights.Matrix.Parts[0];
        Assert.True(w.Type >= WeightType.Int4G32, $"{scheme} became {w.Type}");
        Assert.Equal(Rows * w.RowBytes, weights.ByteCount);
        float[] values = Decode(w);
        for (int r = 0; r < Rows; r++)
        {
            for (int c = 0; c < Columns; c++)
                Assert.Equal(expected[(r * Columns) + (w.InputOrder is null ? c : w.InputOrder[c])], values[(r * Columns) + c]);
        }
    }

    [Theory]
    [MemberData(nameof(Widened))]
    public void WhatHasNoBlocks_BecomesF32(int index)
    {
        Scheme scheme = WidenedSchemes[index];
        const int Rows = 48, Columns = 96;
        float[] expected = Write(scheme, Rows, Columns);
        using Checkpoint checkpoint = Checkpoint.Open(_folder);
        using CpuLinearWeights weights = Load(checkpoint, scheme, ("m", Rows, Columns));
        WeightMatrix w = weights.Matrix.Parts[0];
        Assert.Equal(WeightType.F32, w.Type);
        Assert.Equal(expected, new ReadOnlySpan<float>(w.Data, Rows * Columns).ToArray());
    }

    /// <summary>Kernels gather the activations once for each order they meet, by its address.</summary>
    [Fact]
    public void EqualOrders_AreOne()
    {
        foreach ((string order, bool isShared) in ((string, bool)[])[("shared", true), ("own", false)])
        {
            Scheme scheme = new() { Method = "gptq", Group = 32, Order = order };
            var tensors = new TensorSet();
            var random = new Random(3);
            scheme.Quantize(tensors, random, "a", 32, 64);
            scheme.Quantize(tensors, random, "b", 16, 64);
            TinyModel.Write(_folder, tensors, []);
            using Checkpoint checkpoint = Checkpoint.Open(_folder);
            using CpuLinearWeights weights = Load(checkpoint, scheme, ("a", 32, 64), ("b", 16, 64));
            Assert.True(weights.Matrix.Parts[0].InputOrder is not null);
            Assert.Equal(isShared, weights.Matrix.Parts[0].InputOrder == weights.Matrix.Parts[1].InputOrder);
        }
    }

    /// <summary>BF16 scales stay blocks where F16 holds each of them, and only there.</summary>
    [Theory]
    [InlineData(0.5f, true)]
    [InlineData(1e-20f, false)]
    public void Bf16Scales_AreKeptWhereF16HoldsThem(float scale, bool isRepacked)
    {
        Scheme scheme = new() { Method = "awq", Group = -1 };
        var tensors = new TensorSet();
        scheme.Quantize(tensors, new Random(2), "m", 8, 32);
        tensors.Remove("m.scales");
        tensors.AddFloats("m.scales", TensorType.BF16, [1, 8], [.. Enumerable.Repeat(scale, 8)]);
        TinyModel.Write(_folder, tensors, []);
        using Checkpoint checkpoint = Checkpoint.Open(_folder);
        using CpuLinearWeights weights = Load(checkpoint, scheme, ("m", 8, 32));
        Assert.Equal(isRepacked ? WeightType.Int4G32 : WeightType.F32, weights.Matrix.Parts[0].Type);
    }

    private float[] Write(Scheme scheme, int rows, int columns)
    {
        var tensors = new TensorSet();
        float[] values = scheme.Quantize(tensors, new Random(11), "m", rows, columns);
        TinyModel.Write(_folder, tensors, []);
        return values;
    }

    private CpuLinearWeights Load(Checkpoint checkpoint, Scheme scheme, params (string Name, int Rows, int Columns)[] modules)
    {
        var reader = new StoredMatrixReader(checkpoint, QuantizationConfig.Parse(scheme.Config(), "config.json"));
        return new CpuLinearWeights(_pool, [.. modules.Select(m => reader.Read(m.Name, m.Rows, m.Columns))], new Tensor?[modules.Length]);
    }

    /// <summary>{ F16 scale, int16 zero, codes }: for 4 bits, byte i of a run of 64 columns (32 in the smallest block) has column i and, above it, column i + half.</summary>
    private static float[] Decode(WeightMatrix w)
    {
        bool is4 = w.Type is WeightType.Int4G32 or WeightType.Int4G64 or WeightType.Int4G128;
        int group = w.Type switch { WeightType.Int4G32 or WeightType.Int8G32 => 32, WeightType.Int4G64 or WeightType.Int8G64 => 64, _ => 128 };
        int run = Math.Min(group, 64), blockBytes = 4 + (is4 ? group / 2 : group);
        var values = new float[w.Rows * w.Columns];
        for (int i = 0; i < values.Length; i++)
        {
            int row = i / w.Columns, column = i % w.Columns, at = column % group, inRun = at % run;
            byte* block = w.Data + (row * w.RowBytes) + (column / group * blockBytes);
            int code = is4 ? (block[4 + (at / run * run / 2) + (inRun % (run / 2))] >> (inRun < run / 2 ? 0 : 4)) & 15 : block[4 + at];
            values[i] = (float)*(Half*)block * (code - *(short*)(block + 2));
        }

        return values;
    }
}
