using System.Globalization;

namespace Qwen.Runtime.Backends;

/// <summary>Which device computes: <c>auto</c> (a GPU where there is one, else the CPU), <c>cpu</c>, <c>cuda</c> or <c>cuda:n</c>.</summary>
/// <param name="Kind">The kind.</param>
/// <param name="Index">The number of a GPU.</param>
public readonly record struct ComputeDevice(ComputeDeviceKind Kind, int Index = 0)
{
    /// <summary>Reads one of the forms above.</summary>
    /// <exception cref="FormatException">It is none.</exception>
    public static ComputeDevice Parse(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        return text switch
        {
            "auto" => default,
            "cpu" => new ComputeDevice(ComputeDeviceKind.Cpu),
            "cuda" => new ComputeDevice(ComputeDeviceKind.Cuda),
            _ when text.StartsWith("cuda:", StringComparison.Ordinal) && int.TryParse(text.AsSpan(5), NumberStyles.None, CultureInfo.InvariantCulture, out int index) =>
                new ComputeDevice(ComputeDeviceKind.Cuda, index),
            _ => throw new FormatException($"'{text}' is no device; write auto, cpu, cuda or cuda:n."),
        };
    }

    /// <inheritdoc/>
    public override string ToString() => Kind switch
    {
        ComputeDeviceKind.Auto => "auto",
        ComputeDeviceKind.Cpu => "cpu",
        _ => $"cuda:{Index}",
    };
}

/// <summary>Kinds of devices.</summary>
public enum ComputeDeviceKind
{
    /// <summary>The first GPU where there is one, else the CPU.</summary>
    Auto,

    /// <summary>The CPU alone.</summary>
    Cpu,

    /// <summary>A GPU; an error where there is none.</summary>
    Cuda,
}

/// <summary>The type of activations, and of dense weights, on a GPU.</summary>
public enum GpuPrecision
{
    /// <summary>As the checkpoint's weights: float16 where those are, else bfloat16.</summary>
    Auto,

    /// <summary>bfloat16.</summary>
    BFloat16,

    /// <summary>float16; what is too large for it is held at its largest value.</summary>
    Float16,
}
