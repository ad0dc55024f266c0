namespace Qwen.Runtime.Formats;

#pragma warning disable CS1591 // The names are the documentation: safetensors' dtypes and ggml's types.
/// <summary>How a tensor's elements are stored, in safetensors' and ggml's own names.</summary>
public enum TensorType
{
    F32, F16, BF16, F64, F8_E4M3, F8_E5M2, I8, U8, I16, I32, I64,
    Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K, IQ4_NL, IQ4_XS,
}
#pragma warning restore CS1591

/// <summary>Sizes of the types: elements come in blocks, of one element for the plain types.</summary>
public static class TensorTypes
{
    // Type, number in GGUF (-1: none), name in safetensors (null: none), elements and bytes of a block.
    private static readonly (int Gguf, string? SafeTensors, int Elements, int Bytes)[] Table =
    [
        (0, "F32", 1, 4), (1, "F16", 1, 2), (30, "BF16", 1, 2), (28, "F64", 1, 8), (-1, "F8_E4M3", 1, 1), (-1, "F8_E5M2", 1, 1),
        (24, "I8", 1, 1), (-1, "U8", 1, 1), (25, "I16", 1, 2), (26, "I32", 1, 4), (27, "I64", 1, 8),
        (2, null, 32, 18), (3, null, 32, 20), (6, null, 32, 22), (7, null, 32, 24), (8, null, 32, 34),
        (10, null, 256, 84), (11, null, 256, 110), (12, null, 256, 144), (13, null, 256, 176), (14, null, 256, 210), (15, null, 256, 292),
        (20, null, 32, 18), (23, null, 256, 136),
    ];

    extension(TensorType type)
    {
        /// <summary>Elements of a block.</summary>
        public int BlockElements => Table[(int)type].Elements;

        /// <summary>Bytes of a block.</summary>
        public int BlockBytes => Table[(int)type].Bytes;

        /// <summary>The type's number in a GGUF file; -1 where GGUF has none.</summary>
        public int GgufNumber => Table[(int)type].Gguf;

        /// <summary>The type's name in a safetensors header; null where safetensors has none.</summary>
        public string? SafeTensorsName => Table[(int)type].SafeTensors;
    }

    internal static TensorType? FromGguf(uint number) => Find(row => row.Gguf == number);

    internal static TensorType? FromSafeTensors(string name) => Find(row => row.SafeTensors == name);

    private static TensorType? Find(Predicate<(int Gguf, string? SafeTensors, int Elements, int Bytes)> match)
    {
        int index = Array.FindIndex(Table, match);
        return index < 0 ? null : (TensorType)index;
    }
}
