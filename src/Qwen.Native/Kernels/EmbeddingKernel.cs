using Qwen.Native.Device;
using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>hidden[t, :] = table[tokenIds[t], :], as F32: [vocabulary, columns] -> [tokens, columns].</summary>
/// <remarks>
/// Memory-bound. A block copies a row. In place of an id there may be the complement of a row of the step before: the token that was chosen for it, which
/// the host need not know yet. Where that is the complement of a token itself (a logit was not finite) it is the token all the same: nobody will read the result.
/// </remarks>
/// <param name="cache">Where it is compiled.</param>
/// <param name="table">Type of the table.</param>
/// <param name="columns">Width of a row, a multiple of 4.</param>
/// <param name="scale">How the codes of an E4M3 table are scaled: Tensor or Row. None otherwise.</param>
public sealed class EmbeddingKernel(KernelCache cache, ElementType table, int columns, MatmulScale scale = MatmulScale.None)
    : Kernel(cache, Build(cache.Target, table, columns, scale))
{
    /// <summary>The kernel for a table.</summary>
    public static PtxKernel Build(PtxTarget target, ElementType table, int columns, MatmulScale scale = MatmulScale.None)
    {
        if (scale is not (MatmulScale.None or MatmulScale.Tensor or MatmulScale.Row))
            throw new ArgumentOutOfRangeException(nameof(scale), scale, "An embedding is scaled as a whole, by row, or not at all.");
        var k = new PtxBuilder(target, $"embedding_{PtxBuilder.Name(table)}_{columns}_{scale.ToString().ToLowerInvariant()}", BlockRow.ThreadsFor(columns));
        Global tokenIds = k.Pointer("token_ids"), rows = k.Pointer("table"), scales = k.Pointer("scales"), hidden = k.Pointer("hidden"), chosen = k.Pointer("chosen");
        var row = new BlockRow(k, columns);
        k.WaitForPreviousKernel();
        U32 token = k.Load<U32>(tokenIds.At(k.BlockX, sizeof(int)));
        using (k.If(token > int.MaxValue))
        {
            U32 choice = k.Load<U32>(chosen.At(~token, sizeof(int)));
            k.Set(token, choice ^ (choice.AsS32 >> 31).AsU32);
        }

        F32[][] values = row.Load(table, row.At(rows, table, token), CacheHint.ReadOnly);
        if (scale != MatmulScale.None)
        {
            F32 factor = k.Load<F32>(scale == MatmulScale.Row ? scales.At(token, sizeof(float)) : scales);
            values = row.Each(v => [.. values[v].Select(value => value * factor)]);
        }

        row.Store(ElementType.F32, row.At(hidden, ElementType.F32, k.BlockX), values);
        return k.Build();
    }

    /// <summary>Launches it.</summary>
    /// <param name="stream">Where.</param>
    /// <param name="tokenIds">S32 [tokens], each inside the table, or the complement of a row of <paramref name="chosen"/>.</param>
    /// <param name="rows">The table, [vocabulary, columns].</param>
    /// <param name="hidden">F32 [tokens, columns].</param>
    /// <param name="tokens">Rows of hidden.</param>
    /// <param name="scales">F32 [1] or [vocabulary] for a scaled table.</param>
    /// <param name="chosen">S32: tokens chosen in the step before, where ids refer to them.</param>
    public void Launch(IDeviceStream stream, DevicePointer tokenIds, DevicePointer rows, DevicePointer hidden, int tokens, DevicePointer scales = default, DevicePointer chosen = default) =>
        Launch(stream, tokens, [Argument.Of(tokenIds), Argument.Of(rows), Argument.Of(scales), Argument.Of(hidden), Argument.Of(chosen)], overlapPrevious: true);
}
