using Qwen.Native.Device;
using Qwen.Native.Kernels;

namespace Qwen.Native.Tests.Kernels;

/// <summary>Random operands of a product with weights as they are stored, and its result by plain sums.</summary>
internal sealed class DenseProductCase : IDisposable
{
    private readonly KernelMachine _machine;
    private readonly DenseProduct _product;
    private readonly int _outputs, _inputs, _tokens, _results, _scaleStride;
    private readonly float[] _w, _x, _scales, _bias, _before;
    private readonly DeviceBuffer _weights, _scaleBuffer, _input, _biasBuffer, _y;

    public DenseProductCase(KernelMachine machine, DenseProduct product, int outputs, int inputs, int tokens)
    {
        (_machine, _product, _outputs, _inputs, _tokens) = (machine, product, outputs, inputs, tokens);
        (_results, _scaleStride) = (product.Gated ? outputs / 2 : outputs, ((inputs + 127) / 128 + 3) / 4 * 4);
        _w = machine.Values(product.Weights, outputs * inputs);
        _x = machine.Values(product.Activations, tokens * inputs, 1 / Math.Sqrt(inputs));
        _scales = [.. machine.Values(ElementType.F32, Math.Max(outputs, (outputs + 127) / 128 * _scaleStride)).Select(value => value + 2)];
        (_bias, _before) = (machine.Values(ElementType.F32, outputs), machine.Values(ElementType.F32, tokens * _results));
        (_weights, _input) = (machine.Buffer(product.Weights, _w), machine.Buffer(product.Activations, _x));
        (_scaleBuffer, _biasBuffer) = (machine.Buffer(ElementType.F32, _scales), machine.Buffer(ElementType.F32, _bias));
        _y = product.Accumulate ? machine.Buffer(ElementType.F32, _before) : machine.Empty(product.Result, tokens * _results);
    }

    public DevicePointer Weights => _weights.Pointer;

    public DevicePointer Scales => _scaleBuffer.Pointer;

    public DevicePointer X => _input.Pointer;

    public DevicePointer Bias => _product.Bias ? _biasBuffer.Pointer : default;

    public DevicePointer Y => _y.Pointer;

    /// <summary>Compares Y with plain sums in double precision.</summary>
    /// <param name="what">What computed it.</param>
    public void Check(object what)
    {
        float[] actual = _machine.Read(_product.Result, _y);
        for (int token = 0; token < _tokens; token++)
        {
            for (int o = 0; o < _results; o++)
            {
                (double value, double size) = Sum(token, o);
                if (_product.Gated)
                {
                    (double up, double upSize) = Sum(token, o + _results);
                    double gate = value / (1 + Math.Exp(-value));
                    (value, size) = (gate * up, (size * (Math.Abs(up) + 1)) + (Math.Abs(gate) * upSize));
                }

                int at = (token * _results) + o;
                value += _product.Accumulate ? _before[at] : 0;
                double tolerance = (4e-6 * (size + Math.Abs(value))) + (_product.Result == ElementType.F32 ? 0 : TypedValues.Tolerance(_product.Result) * Math.Abs(value));
                Assert.True(
                    Math.Abs(actual[at] - value) <= tolerance,
                    $"seed {_machine.Seed}, {_machine.Cache.Target}, {_product}, {what}, [{_tokens}, {_inputs}] -> {_outputs}: y[{token}, {o}] is {actual[at]:g9}, not {value:g9}");
            }
        }
    }

    public void Dispose()
    {
        foreach (DeviceBuffer buffer in (DeviceBuffer[])[_weights, _scaleBuffer, _input, _biasBuffer, _y])
            buffer.Dispose();
    }

    private (double Value, double Size) Sum(int token, int row)
    {
        double value = _product.Bias ? _bias[row] : 0, size = Math.Abs(value);
        for (int i = 0; i < _inputs; i++)
        {
            double term = _w[(row * _inputs) + i] * (double)_x[(token * _inputs) + i] * _product.Scale switch
            {
                MatmulScale.None => 1,
                MatmulScale.Tensor => _scales[0],
                MatmulScale.Row => _scales[row],
                _ => _scales[(row / 128 * _scaleStride) + (i / 128)],
            };
            (value, size) = (value + term, size + Math.Abs(term));
        }

        return (value, size);
    }
}
