using Qwen.Native.Ptx;

namespace Qwen.Native.Kernels;

/// <summary>
/// One kind of weights on its way through a <see cref="GemmEmission"/>: how sixteen rows of W are copied, a stage of inputs after the other, and
/// how it becomes the A operand of the tensor cores, whose order of inputs x is then dealt in.
/// </summary>
/// <remarks>A lane copies 16-byte pieces, mostly those that it reads itself; scales are read by several.</remarks>
internal abstract class GemmWeights
{
    /// <summary>Inputs of a stage: 64 or 128.</summary>
    public abstract int StageInputs { get; }

    /// <summary>Pieces of a lane, of sixteen rows and a stage.</summary>
    public abstract int Pieces { get; }

    /// <summary>Bytes of the scales of sixteen rows and a stage, a multiple of 16; 0 where sums are not scaled before their end.</summary>
    public virtual int ScaleBytes => 0;

    /// <summary>Parts of a stage whose sums have a scale each.</summary>
    public virtual int Segments => 1;

    /// <summary>Whether a minimum times the sum of x is added to a part's sums.</summary>
    public virtual bool HasMinimum => false;

    /// <summary>Where a word of 64 inputs of x goes, so that they are in the order of <see cref="Decode"/>: which 16-byte chunk, and which word of it.</summary>
    public abstract (U32 Chunk, U32 Place) Deal(U32 word);

    /// <summary>Where those weights of a warp's sixteen rows are that this lane copies. Rows beyond the last are the last.</summary>
    public abstract Global[] At(U32 sixteen);

    /// <summary>Brings a stage into L2.</summary>
    public abstract void Prefetch(Global[] tile, U32 stage, Pred when);

    /// <summary>Whether the inputs are whole stages always.</summary>
    public virtual bool HasWholeStages => false;

    /// <summary>Copies a stage, if it exists. What lies past the inputs is zeros.</summary>
    public abstract void Copy(Global[] tile, U32 stage, Shared pieces, Shared scales, Pred exists);

    /// <summary>What this lane needs of a stage.</summary>
    /// <param name="pieces">Where it copied its own to.</param>
    public abstract U32[][] LoadPieces(Shared pieces);

    /// <summary>All pieces from one on.</summary>
    protected U32[][] LoadPieces(PtxBuilder k, Shared pieces) => [.. Enumerable.Range(0, Pieces).Select(piece => k.LoadVector<U32>(pieces + (piece * 32 * 16), 4))];

    /// <summary>The A registers of a step of 16 inputs: rows g and g + 8, inputs as dealt.</summary>
    /// <param name="words">What <see cref="LoadPieces(Shared)"/> gave.</param>
    /// <param name="scales">What <see cref="LoadScales"/> gave.</param>
    /// <param name="step">Step in the stage.</param>
    public abstract U32[] Decode(U32[][] words, U32[][] scales, int step);

    /// <summary>The scales of sixteen rows and a stage, for each segment.</summary>
    public virtual U32[][] LoadScales(Shared scales) => [];

    /// <summary>What a segment's sums of rows g and g + 8 are multiplied by.</summary>
    public virtual (F32 Low, F32 High) Scale(U32[][] scales, int segment) => throw new NotSupportedException();

    /// <summary>What a segment's sums of x are multiplied by.</summary>
    public virtual (F32 Low, F32 High) Minimum(U32[][] scales, int segment) => throw new NotSupportedException();

    /// <summary>What finished sums of an output are multiplied by; null for nothing.</summary>
    public virtual F32? FinalScale(U32 output) => null;
}
