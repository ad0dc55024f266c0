using Qwen.Emulation.Instructions;
using Qwen.Emulation.Programs;

namespace Qwen.Emulation.Execution;

/// <summary>
/// The <c>wgmma</c> products of a warp that were not waited for, and what is wrong with how registers are used around them: until then registers of sums read as
/// unwritten and must not be written, nor may those of A; and registers must not have changed since the last <c>wgmma.fence</c>.
/// </summary>
internal sealed unsafe class WarpgroupProducts(Warp warp, RegisterLayout layout)
{
    private readonly Queue<WarpgroupMultiply.Pending> _pending = [];
    private readonly int[] _underWay = new int[layout.Products.Count];
    private readonly uint[] _fenced = new uint[layout.Products.Count * 32];
    private int _group;
    private bool _hasFence;

    /// <summary>Products that were begun so far.</summary>
    public int Issued { get; private set; }

    public bool Pending => _pending.Count > 0;

    public void Clear()
    {
        _pending.Clear();
        Array.Clear(_underWay);
        (_group, _hasFence, Issued) = (0, false, 0);
    }

    /// <summary>Whether a register holds sums of a product under way.</summary>
    public bool IsUnderWay(Source source)
    {
        for (int i = 0; i < _underWay.Length; i++)
        {
            if (_underWay[i] > 0 && layout.Products[i].Slot == source.Slot)
                return true;
        }

        return false;
    }

    public void Fence()
    {
        _hasFence = true;
        for (int i = 0; i < _underWay.Length; i++)
            Snapshot(i);
    }

    public void Issue(WarpgroupMultiply.Pending product, ProductRow[] sums, ProductRow[] a)
    {
        if (!_hasFence)
            warp.Fault(FaultKind.Misuse, "no wgmma.fence comes before the first product.", 0, null);
        foreach (ProductRow row in a)
        {
            warp.Row(row.Row, uint.MaxValue);
            CheckFenced(row);
        }

        foreach (ProductRow row in sums)
        {
            if (_underWay[row.Index] > 0)
            {
                CheckUntouched(row);
            }
            else
            {
                if (product.Adds)
                    warp.Row(row.Row, uint.MaxValue);
                CheckFenced(row);
                warp.Written[row.Row.Slot] = 0;
            }

            _underWay[row.Index]++;
        }

        product.A = new uint[a.Length * 32];
        for (int i = 0; i < a.Length; i++)
            Words(a[i].Row).CopyTo(product.A.AsSpan(i * 32));
        product.Group = _group;
        _pending.Enqueue(product);
        warp.Block.Issue(warp, Issued++, product);
    }

    public void Completed(WarpgroupMultiply.Pending product, ProductRow[] sums, ProductRow[] a)
    {
        for (int i = 0; i < a.Length; i++)
        {
            if (!Words(a[i].Row).SequenceEqual(product.A.AsSpan(i * 32, 32)))
                warp.Fault(FaultKind.PendingProduct, $"a register of A was written before the product in line {product.Instruction.Line} was waited for.", 0, null);
        }

        foreach (ProductRow row in sums)
        {
            CheckUntouched(row);
            Snapshot(row.Index);
            if (--_underWay[row.Index] == 0)
                warp.Written[row.Row.Slot] = uint.MaxValue;
        }
    }

    public void Commit() => _group++;

    public void Wait(int left)
    {
        while (_pending.TryPeek(out WarpgroupMultiply.Pending? product) && product.Group < _group - left)
        {
            _pending.Dequeue();
            product.Instruction.Complete(warp, product);
        }
    }

    private ReadOnlySpan<uint> Words(Source row) => new(warp.Registers + row.Offset, 32);

    private void Snapshot(int index) => Words(layout.Products[index]).CopyTo(_fenced.AsSpan(index * 32));

    private void CheckFenced(ProductRow row)
    {
        if (!Words(row.Row).SequenceEqual(_fenced.AsSpan(row.Index * 32, 32)))
            warp.Fault(FaultKind.Misuse, "a register of the product was written after the last wgmma.fence.", 0, null);
    }

    private void CheckUntouched(ProductRow row)
    {
        if (warp.Written[row.Row.Slot] != 0)
            warp.Fault(FaultKind.PendingProduct, "a register of sums was written before the product was waited for.", 0, null);
    }
}
