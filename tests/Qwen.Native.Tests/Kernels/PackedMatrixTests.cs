using Qwen.Native.Kernels;

namespace Qwen.Native.Tests.Kernels;

public sealed class PackedMatrixTests
{
    public static TheoryData<int, int, PackedOffset> Formats
    {
        get
        {
            var data = new TheoryData<int, int, PackedOffset>();
            foreach (PackedFormat format in PackedWeights.Formats())
                data.Add(format.Bits, format.GroupSize, format.Offset);
            return data;
        }
    }

    [Theory]
    [MemberData(nameof(Formats))]
    public void Packed_MeansTheWeightsItWasMadeOf(int bits, int groupSize, PackedOffset offset)
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        var format = new PackedFormat(bits, groupSize, offset);
        for (int i = 0; i < 4; i++)
        {
            var matrix = new PackedMatrix(random.Next(1, 100), Math.Max(groupSize, format.TileInputs) * random.Next(1, 5), format);
            var weights = new PackedWeights(matrix, random);
            byte[] packed = matrix.Pack(weights);
            Assert.Equal(matrix.ByteCount, packed.Length);

            var unpacked = new float[matrix.Outputs * matrix.Inputs];
            matrix.Unpack(packed, unpacked);
            for (int row = 0; row < matrix.Outputs; row++)
            {
                for (int column = 0; column < matrix.Inputs; column++)
                {
                    float value = unpacked[(row * matrix.Inputs) + column];
                    Assert.True(value == (float)weights.Weight(row, column), $"seed {seed}, {format}, [{row}, {column}]: {value}, not {weights.Weight(row, column)}");
                }
            }
        }
    }

    [Fact]
    public void HalfATile_IsPaddedWithScalesOfZero()
    {
        var matrix = new PackedMatrix(16, 96, new PackedFormat(4, 32, PackedOffset.Minimum));
        byte[] packed = matrix.Pack(new PackedWeights(matrix, new Random(1)));

        Assert.Equal(2, matrix.ColumnTiles);
        Assert.Equal(4 * 64, matrix.RowTileScaleBytes);
        Assert.False(packed.AsSpan((int)matrix.CodeBytes + (3 * 64), 64).ContainsAnyExcept((byte)0));
    }

    [Fact]
    public void Parts_AreThePartsOfTheWhole()
    {
        var matrix = new PackedMatrix(150, 128, new PackedFormat(4, 64, PackedOffset.ZeroPoint));
        var weights = new PackedWeights(matrix, new Random(2));
        byte[] whole = matrix.Pack(weights);

        int codes = (int)matrix.RowTileCodeBytes, scales = (int)matrix.RowTileScaleBytes;
        byte[] partCodes = new byte[3 * codes], partScales = new byte[3 * scales];
        matrix.Pack(weights, 2, 3, partCodes, partScales);

        Assert.Equal(whole.AsSpan(2 * codes, 3 * codes).ToArray(), partCodes);
        Assert.Equal(whole.AsSpan((int)matrix.CodeBytes + (2 * scales), 3 * scales).ToArray(), partScales);
    }

    [Fact]
    public void WrongExtents_AreRefused()
    {
        var format = new PackedFormat(4, 128, PackedOffset.None);
        Assert.Throws<ArgumentOutOfRangeException>(() => new PackedMatrix(0, 128, format));
        Assert.Throws<ArgumentOutOfRangeException>(() => new PackedMatrix(16, 192, format));
        Assert.Throws<ArgumentOutOfRangeException>(() => new PackedMatrix(16, int.MaxValue, format));
        Assert.Throws<ArgumentOutOfRangeException>(() => new PackedMatrix(1 << 22, 1 << 22, format));
        Assert.Throws<ArgumentOutOfRangeException>(() => new PackedMatrix(16, 128, format with { Bits = 3 }));
        Assert.Throws<ArgumentOutOfRangeException>(() => new PackedMatrix(16, 128, format with { GroupSize = 48 }));
    }

    [Theory]
    [InlineData(16, 1f, 1f, "codes above 15")]
    [InlineData(3, 70000f, 1f, "scale of row 0, group 0")]
    [InlineData(3, float.NaN, 1f, "scale of row 0, group 0")]
    [InlineData(3, 1f, float.PositiveInfinity, "offset of row 0, group 0")]
    public void WhatTheFormatCantHold_IsRefused(int code, float scale, float offset, string message)
    {
        var matrix = new PackedMatrix(1, 128, new PackedFormat(4, 128, PackedOffset.Minimum));
        Exception error = Assert.ThrowsAny<Exception>(() => matrix.Pack(new Constant((byte)code, scale, offset)));
        Assert.Contains(message, (error as AggregateException)?.InnerException?.Message ?? error.Message, StringComparison.Ordinal);
    }

    private sealed class Constant(byte code, float scale, float offset) : IPackedSource
    {
        public void Read(int firstRow, int rows, Span<byte> codes, Span<float> scales, Span<float> offsets)
        {
            codes.Fill(code);
            scales.Fill(scale);
            offsets.Fill(offset);
        }
    }
}
