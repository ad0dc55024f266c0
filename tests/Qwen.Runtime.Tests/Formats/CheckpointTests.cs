using System.Buffers.Binary;
using System.Text;
using Qwen.Runtime.Formats;

namespace Qwen.Runtime.Tests.Formats;

public sealed class CheckpointTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("qwen-formats-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void SafeTensors_RoundTrip()
    {
        var writer = new SafeTensorsWriter();
        writer.Metadata["format"] = "pt";
        writer.Add("a.weight", TensorType.BF16, [3, 2], new byte[] { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 });
        writer.Add("scalar", TensorType.F32, [], BitConverter.GetBytes(1.5f));
        writer.Add("empty", TensorType.I64, [0, 4], default);
        writer.Add("fp8", TensorType.F8_E4M3, [5], new byte[] { 1, 2, 3, 4, 5 });
        using Checkpoint checkpoint = Checkpoint.Open(Write("model.safetensors", writer.Write));
        Assert.Null(checkpoint.Metadata);
        Assert.Equal(4, checkpoint.Tensors.Count);
        Tensor a = checkpoint.Require("a.weight");
        Assert.Equal((TensorType.BF16, 6L, 12L), (a.Type, a.ElementCount, a.ByteCount));
        Assert.Equal([3L, 2L], a.Shape.ToArray());
        Assert.Equal(Enumerable.Range(1, 12).Select(i => (byte)i), a.Bytes.ToArray());
        Assert.Equal(1.5f, BitConverter.ToSingle(checkpoint.Require("scalar").Bytes));
        Assert.Equal(0, checkpoint.Require("empty").ByteCount);
        ModelFormatException missing = Assert.Throws<ModelFormatException>(() => checkpoint.Require("nothing"));
        Assert.Contains("tensor 'nothing' is missing", missing.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void SafeTensors_Shards_OpenByDirectoryAndByIndex()
    {
        WriteTensor("model-00001-of-00002.safetensors", "a");
        WriteTensor("model-00002-of-00002.safetensors", "b");
        string index = Path.Combine(_folder, "model.safetensors.index.json");
        File.WriteAllText(index, """{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}""");
        foreach (string path in (string[])[_folder, index])
        {
            using Checkpoint checkpoint = Checkpoint.Open(path);
            Assert.Equal(["a", "b"], checkpoint.Tensors.Keys.Order());
        }
    }

    [Theory]
    [InlineData("""{"weight_map": {"a": "../secret.safetensors"}}""", "which is no file name")]
    [InlineData("""{"weight_map": {"a": 7}}""", "which is no file name")]
    [InlineData("""{"weight_map": {"b": "model-00001-of-00001.safetensors"}}""", "tensor 'b' is not in")]
    [InlineData("""{"weights": {}}""", "weight_map is missing")]
    [InlineData("{", "JSON is damaged")]
    public void SafeTensors_BadIndex_IsRefused(string json, string message)
    {
        WriteTensor("model-00001-of-00001.safetensors", "a");
        File.WriteAllText(Path.Combine(_folder, "model.safetensors.index.json"), json);
        Assert.Contains(message, Assert.Throws<ModelFormatException>(() => Checkpoint.Open(_folder)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("""{"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}""", "tensor 't' says shape [2] in F32 (8 bytes) but spans bytes 0 to 4")]
    [InlineData("""{"t": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}""", "the data has 8 bytes; the file is damaged or truncated")]
    [InlineData("""{"t": {"dtype": "F32", "shape": [9223372036854775807, 4], "data_offsets": [0, 8]}}""", "more elements than 64 bits count")]
    [InlineData("""{"t": {"dtype": "F32", "shape": [4611686018427387904], "data_offsets": [0, 0]}}""", "the file is damaged or truncated")]
    [InlineData("""{"t": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}}""", "the size -1")]
    [InlineData("""{"t": {"dtype": "Q9", "shape": [2], "data_offsets": [0, 8]}}""", "dtype 'Q9', which is not supported")]
    [InlineData("""{"t": {"dtype": "F32", "shape": [2]}}""", "no well-formed dtype, shape and data_offsets")]
    [InlineData("""{"t": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "u": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}""", "overlap")]
    [InlineData("""{"t": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "t": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}""", "'t' is there twice")]
    [InlineData("[]", "no JSON object")]
    [InlineData("{", "JSON is damaged")]
    public void SafeTensors_BadHeader_IsRefused(string header, string message)
    {
        string path = Write("bad.safetensors", stream =>
        {
            byte[] json = Encoding.UTF8.GetBytes(header);
            stream.Write(BitConverter.GetBytes((ulong)json.Length));
            stream.Write(json);
            stream.Write(new byte[8]);
        });
        ModelFormatException error = Assert.Throws<ModelFormatException>(() => Checkpoint.Open(path));
        Assert.StartsWith(path, error.Message, StringComparison.Ordinal);
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Gguf_RoundTrip_EveryMetadataType()
    {
        var values = new Dictionary<string, object>
        {
            ["u8"] = (byte)200, ["i8"] = (sbyte)-5, ["u16"] = (ushort)60000, ["i16"] = (short)-30000, ["u32"] = 4000000000u, ["i32"] = -7, ["f32"] = 1.5f,
            ["bool"] = true, ["string"] = "grüße 你好", ["u64"] = ulong.MaxValue, ["i64"] = long.MinValue, ["f64"] = Math.PI,
            ["ints"] = new[] { 1, -2, 3 }, ["floats"] = new[] { 1f, 2f }, ["flags"] = new[] { true, false }, ["nested"] = new object[] { new[] { 1, 2 }, new[] { 3 } },
        };
        using Checkpoint checkpoint = Checkpoint.Open(Write("m.gguf", Sample(values).Write));
        foreach ((string key, object value) in values)
            Assert.Equal(value, checkpoint.Metadata!.Values[key]);
        GgufStringArray words = checkpoint.Metadata!.GetStrings("words");
        Assert.Equal(["a", "", "läßt"], Enumerable.Range(0, words.Count).Select(i => Encoding.UTF8.GetString(words[i])));
        Assert.Equal(200u, checkpoint.Metadata.GetUInt32("u8"));
        Assert.Contains("u64: 18446744073709551615 is not a whole number of 32 bits", Assert.Throws<ModelFormatException>(() => checkpoint.Metadata.GetUInt32("u64")).Message, StringComparison.Ordinal);
        Assert.Contains("bool: True is not a string", Assert.Throws<ModelFormatException>(() => checkpoint.Metadata.GetString("bool")).Message, StringComparison.Ordinal);

        Tensor q = checkpoint.Require("q");
        Assert.Equal((TensorType.Q4_0, 2L, 64L, 72L), (q.Type, q.Shape[0], q.Shape[1], q.ByteCount));
        Assert.Equal(Enumerable.Range(0, 72).Select(i => (byte)i), q.Bytes.ToArray());
    }

    [Fact]
    public void Gguf_Version2_Opens()
    {
        byte[] file = Bytes(Sample([]).Write);
        BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(4), 2);
        using Checkpoint checkpoint = Checkpoint.Open(Write("v2.gguf", s => s.Write(file)));
        Assert.Equal(2, checkpoint.Tensors.Count);
    }

    [Fact]
    public void Gguf_Split_OpensFromAnyShard_AndNeedsAll()
    {
        for (int i = 1; i <= 3; i++)
        {
            var writer = new GgufWriter();
            writer.Add($"t{i}", TensorType.F32, [1], BitConverter.GetBytes((float)i));
            Write($"m-0000{i}-of-00003.gguf", writer.Write);
        }

        using (Checkpoint checkpoint = Checkpoint.Open(Path.Combine(_folder, "m-00002-of-00003.gguf")))
            Assert.Equal(["t1", "t2", "t3"], checkpoint.Tensors.Keys.Order());
        File.Delete(Path.Combine(_folder, "m-00003-of-00003.gguf"));
        Assert.Throws<FileNotFoundException>(() => Checkpoint.Open(Path.Combine(_folder, "m-00001-of-00003.gguf")));
    }

    [Theory]
    [InlineData(0, 0x47475546u, "does not start with 'GGUF'")]
    [InlineData(4, 1u, "GGUF version 1")]
    [InlineData(4, 0x03000000u, "GGUF version 50331648")]
    [InlineData(12, 1u, "tensor count: 4,294,967,298 is more than the file can hold")]
    [InlineData(20, 0x80000000u, "metadata count")]
    public void Gguf_BadHeader_IsRefused(int offset, uint value, string message)
    {
        byte[] file = Bytes(Sample([]).Write);
        BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(offset), value);
        string path = Write("bad.gguf", s => s.Write(file));
        Assert.Contains(message, Assert.Throws<ModelFormatException>(() => Checkpoint.Open(path)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Open_NamesWhatIsWrong_WithTheFile()
    {
        Assert.Throws<FileNotFoundException>(() => Checkpoint.Open(Path.Combine(_folder, "no.gguf")));
        Assert.Contains("is empty", Assert.Throws<ModelFormatException>(() => Checkpoint.Open(Write("e.gguf", _ => { }))).Message, StringComparison.Ordinal);
        Assert.Contains("holds neither", Assert.Throws<ModelFormatException>(() => Checkpoint.Open(_folder)).Message, StringComparison.Ordinal);
        Assert.Contains("is neither a directory", Assert.Throws<ModelFormatException>(() => Checkpoint.Open(Write("x.bin", s => s.WriteByte(1)))).Message, StringComparison.Ordinal);
    }

    /// <summary>Damaged files either open, with every tensor inside the file, or give the one exception. 30,000 cases.</summary>
    [Fact]
    public unsafe void MutatedFiles_NeverReadOutside()
    {
        var safe = new SafeTensorsWriter();
        for (int i = 0; i < 5; i++)
            safe.Add($"layer.{i}.weight", TensorType.F16, [4, i + 1], new byte[8 * (i + 1)]);
        (byte[] Original, bool IsGguf)[] files =
        [
            (Bytes(safe.Write), false),
            (Bytes(Sample(new() { ["general.alignment"] = 64u, ["list"] = new[] { 1L, 2L }, ["nested"] = new object[] { new[] { 1f } }, ["name"] = "x" }).Write), true),
        ];
        var random = new Random(7);
        int opened = 0;
        for (int i = 0; i < 30_000; i++)
        {
            (byte[] original, bool isGguf) = files[i % 2];
            byte[] file = Mutate(original, random);
            fixed (byte* data = file)
            {
                try
                {
                    List<Tensor> tensors = isGguf ? Gguf.Read("f", data, file.Length).Tensors : SafeTensors.Read("f", data, file.Length);
                    foreach (Tensor tensor in tensors.Where(t => t.ByteCount > 0))
                        Assert.True(tensor.Data >= data && tensor.Data + tensor.ByteCount <= data + file.Length, $"case {i}: tensor '{tensor.Name}' lies outside");
                    opened++;
                }
                catch (ModelFormatException)
                {
                }
            }
        }

        Assert.InRange(opened, 1000, 29_000);
    }

    private static byte[] Mutate(byte[] original, Random random)
    {
        byte[] file = random.Next(8) == 0 ? original[..random.Next(original.Length + 1)] : (byte[])original.Clone();
        for (int n = random.Next(1, 4); n > 0 && file.Length > 8; n--)
        {
            int at = random.Next(file.Length - 8);
            switch (random.Next(5))
            {
                case 0: file[at] ^= (byte)(1 << random.Next(8)); break;
                case 1: file[at] = (byte)random.Next(256); break;
                case 2: BinaryPrimitives.WriteInt64LittleEndian(file.AsSpan(at), Interesting(random)); break;
                case 3: BinaryPrimitives.WriteInt32LittleEndian(file.AsSpan(at), (int)Interesting(random)); break;
                default: file.AsSpan(random.Next(file.Length - 8), 8).CopyTo(file.AsSpan(at)); break;
            }
        }

        return file;
    }

    private static long Interesting(Random random) => new[] { 0, 1, -1, int.MaxValue, uint.MaxValue, long.MaxValue, long.MinValue, 1L << 40, 31, 33, (1L << 62) + 1 }[random.Next(11)];

    private static GgufWriter Sample(Dictionary<string, object> values)
    {
        var writer = new GgufWriter();
        foreach ((string key, object value) in values)
            writer.Metadata[key] = value;
        writer.Metadata["words"] = new[] { "a", "", "läßt" };
        writer.Add("q", TensorType.Q4_0, [2, 64], Enumerable.Range(0, 72).Select(i => (byte)i).ToArray());
        writer.Add("f", TensorType.F32, [3], new byte[12]);
        return writer;
    }

    private static byte[] Bytes(Action<Stream> write)
    {
        using var stream = new MemoryStream();
        write(stream);
        return stream.ToArray();
    }

    private void WriteTensor(string file, string name)
    {
        var writer = new SafeTensorsWriter();
        writer.Add(name, TensorType.F32, [1], new byte[4]);
        Write(file, writer.Write);
    }

    private string Write(string name, Action<Stream> write)
    {
        string path = Path.Combine(_folder, name);
        using FileStream stream = File.Create(path);
        write(stream);
        return path;
    }
}
