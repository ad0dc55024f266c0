using Qwen.Runtime.Formats;
using Qwen.Runtime.Models;

namespace Qwen.Runtime.Tests.Formats;

public sealed class GroupQuantizedMatrixTests
{
    private static readonly SyntheticShape Shape = new("qwen2", Hidden: 128, Layers: 1, Heads: 2, KvHeads: 1, HeadDim: 64, Intermediate: 192, Tied: true, Vocabulary: 320, Context: 64);

    /// <summary>What reads words as a whole gives what reads each code on its own, for any rows and any order of columns.</summary>
    [Theory]
    [InlineData("awq")]
    [InlineData("gptq")]
    [InlineData("gptq-int8")]
    public void ReadCodes_GivesEachCode(string format)
    {
        using Checkpoint checkpoint = SyntheticCheckpoint.Create(format, Shape, format);
        var matrix = (GroupQuantizedMatrix)new StoredMatrixReader(checkpoint, ModelConfig.Load(checkpoint).Quantization).Read("model.layers.0.mlp.down_proj", Shape.Hidden, Shape.Intermediate);
        int[] order = [.. Enumerable.Range(0, matrix.Columns)];
        new Random(1).Shuffle(order);
        foreach ((int first, int rows) in ((int, int)[])[(0, 16), (112, 16), (8, 8), (3, 5)])
        {
            foreach (int[] columns in (int[][])[[], order])
            {
                byte[] codes = new byte[rows * matrix.Columns];
                matrix.ReadCodes(first, rows, columns, codes);
                for (int i = 0; i < codes.Length; i++)
                {
                    int place = i % matrix.Columns;
                    Assert.Equal(matrix.Code(first + (i / matrix.Columns), columns.Length == 0 ? place : columns[place]), codes[i]);
                }
            }
        }
    }
}
