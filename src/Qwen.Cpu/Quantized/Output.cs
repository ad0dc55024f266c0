using System.Runtime.CompilerServices;

namespace Qwen.Cpu.Quantized;

/// <summary>Where dots go: row r's of token t to start[t * stride + r].</summary>
internal readonly unsafe struct Output(float* start, long stride, bool accumulate)
{
    private readonly float* _start = start;
    private readonly long _stride = stride;

    /// <summary>Dots are added to what is there.</summary>
    public readonly bool Accumulate = accumulate;

    /// <summary>The same, <paramref name="rows"/> further.</summary>
    public Output At(int rows) => new(_start + rows, _stride, Accumulate);

    /// <summary>A token's output of row 0.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public float* Token(int token) => _start + (token * _stride);
}
