namespace Qwen.Cpu.Quantized;

/// <summary>Work that is written once for all formats.</summary>
internal interface IFormatWork
{
    /// <summary>Does the work for <typeparamref name="TFormat"/>.</summary>
    void Do<TFormat>()
        where TFormat : struct, IQuantizedFormat;
}

/// <summary>The way from a <see cref="WeightType"/> to its format.</summary>
internal static class QuantizedFormats
{
    /// <summary>Does the work for the format of <paramref name="type"/>.</summary>
    /// <exception cref="ArgumentException">The type is not quantized.</exception>
    public static void With<TWork>(WeightType type, TWork work)
        where TWork : struct, IFormatWork
    {
        switch (type)
        {
            case WeightType.Q4_0: work.Do<ScaledBlock<NibbleCodes>>(); break;
            case WeightType.Q4_1: work.Do<BiasedBlock<NibbleCodes>>(); break;
            case WeightType.Q5_0: work.Do<ScaledBlock<FiveBitCodes>>(); break;
            case WeightType.Q5_1: work.Do<BiasedBlock<FiveBitCodes>>(); break;
            case WeightType.Q8_0: work.Do<ScaledBlock<SignedByteCodes>>(); break;
            case WeightType.Q2_K: work.Do<Q2_K>(); break;
            case WeightType.Q3_K: work.Do<Q3_K>(); break;
            case WeightType.Q4_K: work.Do<Q4_K>(); break;
            case WeightType.Q5_K: work.Do<Q5_K>(); break;
            case WeightType.Q6_K: work.Do<Q6_K>(); break;
            case WeightType.Q8_K: work.Do<Q8_K>(); break;
            case WeightType.IQ4_NL: work.Do<ScaledBlock<NonLinearCodes>>(); break;
            case WeightType.IQ4_XS: work.Do<IQ4_XS>(); break;
            case WeightType.Int4G32: work.Do<Int4<GroupOf32>>(); break;
            case WeightType.Int4G64: work.Do<Int4<GroupOf64>>(); break;
            case WeightType.Int4G128: work.Do<Int4<GroupOf128>>(); break;
            case WeightType.Int8G32: work.Do<Int8<GroupOf32>>(); break;
            case WeightType.Int8G64: work.Do<Int8<GroupOf64>>(); break;
            case WeightType.Int8G128: work.Do<Int8<GroupOf128>>(); break;
            default: throw new ArgumentException($"{type} is no quantized type.", nameof(type));
        }
    }

    /// <summary>Throws where the blocks do not divide the columns, or the rows do not follow each other without gaps.</summary>
    /// <exception cref="ArgumentException">They do not.</exception>
    public static void Check<TFormat>(in WeightMatrix w)
        where TFormat : struct, IQuantizedFormat
    {
        if (w.Columns % TFormat.BlockColumns != 0 || w.RowBytes != (long)w.Columns / TFormat.BlockColumns * TFormat.BlockBytes)
            throw new ArgumentException($"A row of {w.Columns} columns in {w.RowBytes} bytes does not hold whole {w.Type} blocks.", nameof(w));
    }
}
