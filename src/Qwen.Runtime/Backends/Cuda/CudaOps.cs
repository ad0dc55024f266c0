using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Kernels.Sampling;
using Qwen.Native.Ptx;

namespace Qwen.Runtime.Backends.Cuda;

/// <summary>What ops compute with: the stream, the products, and each kernel, compiled when it's first asked for.</summary>
/// <param name="device">The device.</param>
/// <param name="type">Activations: F16 or BF16.</param>
/// <param name="rows">Most rows of activations.</param>
internal sealed class CudaOps(IDevice device, ElementType type, int rows) : IDisposable
{
    private readonly KernelCache _cache = new(device);
    private readonly Dictionary<(ElementType, int), EmbeddingKernel> _embedding = [];
    private readonly Dictionary<(ElementType, int, MatmulScale), RmsNormKernel> _norm = [];
    private readonly Dictionary<(int, MatmulScale), SwiGluQuantizeKernel> _swiGluQuantize = [];
    private readonly Dictionary<int, GatherRowsKernel> _gather = [];
    private readonly Dictionary<int, PermuteColumnsKernel> _permute = [];
    private readonly Dictionary<(ElementType, int), TensorScaleKernel> _tensorScale = [];
    private readonly Dictionary<(ElementType, int, MatmulScale), QuantizeKernel> _quantize = [];
    private readonly Dictionary<AttentionShape, RopeAndStoreKernel> _rope = [];
    private readonly Dictionary<(AttentionShape, DecodeTiling), DecodeAttentionKernel> _decode = [];
    private readonly Dictionary<AttentionShape, PrefillAttentionKernel> _prefill = [];
    private readonly Dictionary<(PackedProduct, GemvTiling), PackedGemvKernel> _gemv = [];
    private readonly Dictionary<(DenseProduct, GemvTiling), DenseGemvKernel> _denseGemv = [];
    private readonly Dictionary<(PackedProduct, GemmTiling), PackedGemmKernel> _packedGemm = [];
    private readonly Dictionary<(DenseProduct, GemmTiling), DenseGemmKernel> _denseGemm = [];
    private readonly Dictionary<(int, int), ArgmaxKernel> _argmax = [];
    private readonly Dictionary<(int, int), SampleKernels> _sample = [];
    private readonly Dictionary<int, PenaltyKernel> _penalty = [];
    private readonly Dictionary<(int, int, int), LogprobsKernel> _logprobs = [];
    private readonly Dictionary<(PackedFormat, ElementType), UnpackKernel> _unpack = [];
    private SwiGluKernel? _swiGlu;

    /// <summary>Where all runs, in order.</summary>
    public IDeviceStream Stream { get; } = device.CreateStream();

    /// <summary>Products of the matrix library.</summary>
    public MatmulCache Matmuls { get; } = new(device);

    /// <summary>Type of activations.</summary>
    public ElementType Type { get; } = type;

    /// <summary>Most rows of activations.</summary>
    public int Rows { get; } = rows;

    /// <summary>Room for the inputs of a product in another form: quantized, or in another order.</summary>
    public DevicePointer Inputs { get; set; }

    /// <summary>Room for the sums of products that several blocks share: zeros at first.</summary>
    public DevicePointer PartialSums { get; set; }

    /// <summary>
    /// Rows up to which E4M3 codes are multiplied by our own kernels. Those for more than a few need products of warp groups to be ahead of the matrix
    /// library; on an H200 they are up to 32 rows with scales per output, and up to 16 per block.
    /// </summary>
    public int MostFewRows(MatmulScale scale) => !_cache.Target.Has(PtxFeature.WarpGroupMma) ? DenseGemvKernel.MostTokens : scale == MatmulScale.Block128 ? 16 : 32;

    /// <summary>Room for packed weights as a dense matrix.</summary>
    public DevicePointer Unpacked { get; set; }

    public SwiGluKernel SwiGlu => _swiGlu ??= new SwiGluKernel(_cache, Type);

    public EmbeddingKernel Embedding(ElementType table, int columns) => Get(_embedding, (table, columns), static (cache, key) => new EmbeddingKernel(cache, key.Item1, key.Item2));

    public RmsNormKernel RmsNorm(ElementType output, int columns, MatmulScale scale) => Get(_norm, (output, columns, scale), static (cache, key) => new RmsNormKernel(cache, key.Item1, key.Item2, null, key.Item3));

    public SwiGluQuantizeKernel SwiGluQuantize(int columns, MatmulScale scale) =>
        _swiGluQuantize.TryGetValue((columns, scale), out SwiGluQuantizeKernel? kernel) ? kernel : _swiGluQuantize[(columns, scale)] = new SwiGluQuantizeKernel(_cache, Type, columns, scale);

    public GatherRowsKernel GatherRows(int rowBytes) => Get(_gather, rowBytes, static (cache, bytes) => new GatherRowsKernel(cache, bytes));

    public PermuteColumnsKernel PermuteColumns(int columns) => Get(_permute, columns, static (cache, width) => new PermuteColumnsKernel(cache, width));

    public TensorScaleKernel TensorScale(int columns) => Get(_tensorScale, (Type, columns), static (cache, key) => new TensorScaleKernel(cache, key.Item1, key.Item2));

    public QuantizeKernel Quantize(int columns, MatmulScale scale) => Get(_quantize, (Type, columns, scale), static (cache, key) => new QuantizeKernel(cache, key.Item1, key.Item2, key.Item3));

    public DenseGemvKernel DenseGemv(DenseProduct product, int outputs, int inputs) =>
        Get(_denseGemv, (product, DenseGemvKernel.TilingFor(product, outputs, inputs, device.Info)), static (cache, key) => new DenseGemvKernel(cache, key.Item1, key.Item2));

    public RopeAndStoreKernel RopeAndStore(in AttentionShape shape) => Get(_rope, shape, static (cache, shape) => new RopeAndStoreKernel(cache, shape.RopeAndStore));

    public DecodeAttentionKernel Decode(in AttentionShape shape, DecodeTiling tiling) => Get(_decode, (shape, tiling), static (cache, key) => new DecodeAttentionKernel(cache, key.Item1, tiling: key.Item2));

    public PrefillAttentionKernel Prefill(in AttentionShape shape) => Get(_prefill, shape, static (cache, shape) => new PrefillAttentionKernel(cache, shape));

    public PackedGemvKernel PackedGemv(in PackedProduct product, PackedMatrix matrix) => Get(
        _gemv, (product, PackedGemvKernel.TilingFor(product, matrix, device.Info)), static (cache, key) => new PackedGemvKernel(cache, key.Item1, key.Item2));

    public PackedGemmKernel PackedGemm(in PackedProduct product, PackedMatrix matrix, int rows) => Get(
        _packedGemm, (product, PackedGemmKernel.TilingFor(_cache.Target, matrix, rows, device.Info.Multiprocessors)), static (cache, key) => new PackedGemmKernel(cache, key.Item1, key.Item2));

    public DenseGemmKernel DenseGemm(in DenseProduct product, int outputs, int rows) => Get(
        _denseGemm, (product, GemmTiling.For(_cache.Target, outputs, rows, device.Info.Multiprocessors)), static (cache, key) => new DenseGemmKernel(cache, key.Item1, key.Item2));

    public ArgmaxKernel Argmax(int vocabulary, int stride) => Get(_argmax, (vocabulary, stride), static (cache, key) => new ArgmaxKernel(cache, key.Item1, key.Item2));

    public SampleKernels Sample(int vocabulary, int stride) => Get(_sample, (vocabulary, stride), static (cache, key) => new SampleKernels(cache, key.Item1, key.Item2));

    public PenaltyKernel Penalty(int stride) => Get(_penalty, stride, static (cache, stride) => new PenaltyKernel(cache, stride));

    public LogprobsKernel Logprobs(int vocabulary, int most, int stride) =>
        Get(_logprobs, (vocabulary, most, stride), static (cache, key) => new LogprobsKernel(cache, key.Item1, key.Item2, key.Item3));

    public UnpackKernel Unpack(PackedFormat format) => Get(_unpack, (format, Type), static (cache, key) => new UnpackKernel(cache, key.Item1, key.Item2));

    /// <inheritdoc/>
    public void Dispose()
    {
        Matmuls.Dispose();
        Stream.Dispose();
        _cache.Dispose();
    }

    // With what is made from as arguments: asking for a kernel that is there allocates nothing.
    private TKernel Get<TKey, TKernel>(Dictionary<TKey, TKernel> kernels, TKey key, Func<KernelCache, TKey, TKernel> make)
        where TKey : notnull
    {
        if (!kernels.TryGetValue(key, out TKernel? kernel))
            kernels[key] = kernel = make(_cache, key);
        return kernel;
    }
}
