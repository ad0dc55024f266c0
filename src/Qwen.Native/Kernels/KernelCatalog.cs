using Qwen.Native.Device;
using Qwen.Native.Kernels.Sampling;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>The kernels that the engine asks for, at the shapes of Qwen models: what the assembler check compiles and the device check runs.</summary>
public static class KernelCatalog
{
    private static readonly ElementType[] _activations = [ElementType.BF16, ElementType.F16];
    private static readonly ElementType[] _caches = [ElementType.F32, ElementType.F16, ElementType.BF16, ElementType.E4M3, ElementType.E5M2, ElementType.S8];
    private static readonly DeviceInfo _h200 = new("H200", 9, 0, 0, 132, 227 << 10, 228 << 10, 2048, 50 << 20, 141L << 30); // what tilings are chosen for
    private static readonly MatmulScale[] _float8Scales = [MatmulScale.Row, MatmulScale.RowGroup128];

    // hidden, intermediate, query heads, key and value heads, head width, norms of queries and keys
    private static readonly (int Hidden, int Intermediate, int Heads, int KvHeads, int HeadDim, bool HasQkNorm)[] _models =
    [
        (896, 4864, 14, 2, 64, false), // Qwen2.5-0.5B
        (3584, 18944, 28, 4, 128, false), // Qwen2.5-7B
        (8192, 29568, 64, 8, 128, false), // Qwen2.5-72B
        (4096, 12288, 32, 8, 128, true), // Qwen3-8B
    ];

    /// <summary>All of them, built for a target.</summary>
    public static IEnumerable<PtxKernel> All(PtxTarget target) => [.. Rows(target), .. Dense(target), .. Packed(target), .. Attention(target), .. Samplers(target)];

    // Key biases go with quantized caches of models that have one.
    private static IEnumerable<PtxKernel> Attention(PtxTarget target)
    {
        foreach ((_, _, int heads, int kvHeads, int headDim, bool hasQkNorm) in _models.Where(model => model.Heads < 64)) // groups of 8 differ from those of 7 in constants
        {
            foreach (ElementType type in _activations)
            {
                foreach (ElementType stored in _caches)
                {
                    var shape = new AttentionShape(type, stored, heads, kvHeads, headDim, 16, HasKeyBias: !hasQkNorm && stored.Bytes() == 1);
                    yield return DecodeAttentionKernel.Build(target, shape with { HasQkNorm = hasQkNorm });
                    if (stored != ElementType.F32 && target.Sm >= 90) // others have no shared memory for it
                        yield return DecodeAttentionKernel.Build(target, shape with { HasQkNorm = hasQkNorm }, new DecodeTiling(8, 2));
                    yield return PrefillAttentionKernel.Build(target, shape);
                    yield return PrefillAttentionKernel.BuildShort(target, shape);
                }
            }
        }
    }

    // What works on rows of activations.
    private static IEnumerable<PtxKernel> Rows(PtxTarget target)
    {
        foreach ((int hidden, int intermediate, int heads, int kvHeads, int headDim, bool hasQkNorm) in _models)
        {
            foreach (ElementType table in (ElementType[])[ElementType.F32, ElementType.F16, ElementType.BF16])
                yield return EmbeddingKernel.Build(target, table, hidden);
            yield return EmbeddingKernel.Build(target, ElementType.E4M3, hidden, MatmulScale.Row);
            yield return GatherRowsKernel.Build(target, hidden * sizeof(float));
            yield return PermuteColumnsKernel.Build(target, hidden);
            yield return PermuteColumnsKernel.Build(target, intermediate);
            foreach (MatmulScale scale in _float8Scales)
            {
                yield return RmsNormKernel.Build(target, ElementType.E4M3, hidden, null, scale);
                foreach (ElementType type in _activations)
                {
                    yield return QuantizeKernel.Build(target, type, heads * headDim, scale);
                    yield return SwiGluQuantizeKernel.Build(target, type, intermediate, scale);
                }
            }

            yield return RmsNormKernel.Build(target, ElementType.F32, hidden);
            foreach (ElementType type in _activations)
            {
                yield return QuantizeKernel.Build(target, type, hidden, MatmulScale.Tensor);
                yield return TensorScaleKernel.Build(target, type, hidden);
                foreach (ElementType? delta in (ElementType?[])[null, type, ElementType.F32])
                    yield return RmsNormKernel.Build(target, type, hidden, delta);
                foreach (ElementType stored in _caches)
                {
                    bool hasKeyBias = !hasQkNorm && stored.Bytes() == 1;
                    yield return RopeAndStoreKernel.Build(target, new RopeAndStoreShape(type, stored, heads, kvHeads, headDim, 16, hasQkNorm, hasKeyBias));
                }
            }
        }

        foreach (ElementType type in _activations)
            yield return SwiGluKernel.Build(target, type);
    }

    // What multiplies few tokens by weights as they are stored: projections into activations, gated ones, and what is added to the residual; logits.
    private static IEnumerable<PtxKernel> Dense(PtxTarget target)
    {
        foreach (ElementType type in _activations)
        {
            foreach ((ElementType weights, MatmulScale scale) in ((ElementType, MatmulScale)[])[(type, MatmulScale.None), (ElementType.E4M3, MatmulScale.Tensor), (ElementType.E4M3, MatmulScale.Row), (ElementType.E4M3, MatmulScale.Block128)])
            {
                (DenseProduct Product, int Outputs)[] products =
                [
                    (new(weights, type, type, scale, Bias: true), 4608), (new(weights, type, ElementType.F32, scale, Accumulate: true), 3584),
                    (new(weights, type, ElementType.F32, scale), 152064), (new(weights, type, type, scale, Gated: true), 37888),
                ];
                foreach ((DenseProduct product, int outputs) in products) // the number of warps is in constants only
                    yield return DenseGemvKernel.Build(target, type == ElementType.BF16 ? product with { Norm = NormOf(product.Result, product.Accumulate) } : product, DenseGemvKernel.TilingFor(product, outputs, 3584, _h200));
                if (scale == MatmulScale.None)
                    continue; // the matrix library's
                foreach (GemmTiling tiling in GemmTilings(target, mostRows: 64, all: scale == MatmulScale.Row).Distinct())
                {
                    yield return DenseGemmKernel.Build(target, new DenseProduct(weights, type, ElementType.F32, scale, Accumulate: true), tiling);
                    if (tiling == GemmTiling.For(target, 1 << 20, tiling.Rows, 132, mostRows: 64))
                        yield return DenseGemmKernel.Build(target, new DenseProduct(weights, type, type, scale, Gated: true), tiling);
                }
            }
        }
    }

    // All tilings of a format, or those that are short of registers.
    private static IEnumerable<GemmTiling> GemmTilings(PtxTarget target, int mostRows, bool all) =>
        from outputs in (int[])[1, 1 << 20]
        from rows in Enumerable.Range(4, 4).Select(power => 1 << power).Where(rows => all || rows >= 64)
        select GemmTiling.For(target, outputs, rows, 132, mostRows);

    // Products of BF16 activations do the norms between them on the side.
    private static FusedNorm NormOf(ElementType result, bool accumulate) => accumulate ? FusedNorm.OfResult : result == ElementType.F32 ? FusedNorm.None : FusedNorm.OfInput;

    // What multiplies by packed weights, a projection with bias into activations and one added to the residual; what reads quantized ones.
    private static IEnumerable<PtxKernel> Packed(PtxTarget target)
    {
        PackedFormat[] formats =
        [
            new(4, 128, PackedOffset.ZeroPoint), // AWQ, GPTQ
            new(4, 128, PackedOffset.None), new(4, 64, PackedOffset.ZeroPoint), new(4, PackedFormat.WholeRow, PackedOffset.None), // GPTQ
            new(4, 32, PackedOffset.None), new(4, 32, PackedOffset.Minimum), // Q4_0; Q4_1 and Q4_K
            new(8, 32, PackedOffset.None), // Q8_0
            new(8, 128, PackedOffset.None), new(8, 128, PackedOffset.ZeroPoint), new(8, PackedFormat.WholeRow, PackedOffset.None), // GPTQ
        ];
        foreach (PackedFormat format in formats)
        {
            foreach (ElementType type in _activations)
            {
                (PackedProduct Product, int Outputs)[] products =
                    [(new(format, type, type, Bias: true), 4608), (new(format, type, ElementType.F32, Accumulate: true), 3584), (new(format, type, ElementType.F32), 152064), (new(format, type, type, Gated: true), 37888)];
                foreach ((PackedProduct product, int outputs) in products)
                    yield return PackedGemvKernel.Build(target, type == ElementType.BF16 ? product with { Norm = NormOf(product.Result, product.Accumulate) } : product, PackedGemvKernel.TilingFor(product, new PackedMatrix(outputs, 3584, format), _h200));
            }

            foreach (GemmTiling tiling in GemmTilings(target, PackedGemmKernel.MostRows(format), all: format == formats[0]).Distinct()) // with F16 only constants differ
            {
                yield return PackedGemmKernel.Build(target, new PackedProduct(format, ElementType.BF16, ElementType.F32, Accumulate: true), tiling);
                if (tiling == GemmTiling.For(target, 1 << 20, tiling.Rows, 132, PackedGemmKernel.MostRows(format)))
                    yield return PackedGemmKernel.Build(target, new PackedProduct(format, ElementType.BF16, ElementType.BF16, Gated: true), tiling);
            }

            yield return UnpackKernel.Build(target, format, ElementType.BF16);
        }
    }

    // What chooses tokens.
    private static IEnumerable<PtxKernel> Samplers(PtxTarget target)
    {
        foreach ((int vocabulary, int stride) in ((int, int)[])[(151936, 151936), (152064, 152064), (151665, 152064)])
        {
            yield return ArgmaxKernel.Build(target, vocabulary, stride);
            yield return WeighKernel.Build(target, vocabulary, stride);
            yield return SampleKernel.Build(target, vocabulary, stride);
            yield return LogprobsKernel.Build(target, vocabulary, most: 20, stride);
            if (vocabulary == stride)
                yield return PenaltyKernel.Build(target, vocabulary);
        }
    }
}
