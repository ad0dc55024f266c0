using System.Runtime.InteropServices;
using Qwen.Emulation;
using Qwen.Native.Device;

namespace Qwen.Native.Tests.Emulation;

/// <summary>Runs small PTX bodies on the emulated device. Parameters are pointers named in, out and so on; registers are declared generously.</summary>
internal sealed class Machine : IDisposable
{
    private readonly List<IDisposable> _owned = [];

    public Machine(int computeCapability = 90, int? multiprocessors = null)
    {
        DeviceInfo info = EmulatedDevice.Describe(computeCapability);
        Device = new EmulatedDevice(info with { Multiprocessors = multiprocessors ?? info.Multiprocessors });
        Stream = Device.CreateStream();
        _owned.Add(Stream);
    }

    public EmulatedDevice Device { get; }

    public IDeviceStream Stream { get; }

    /// <summary>A whole module of one entry "k" around a body.</summary>
    /// <param name="body">Statements. %tx is the thread, %bx the block; %p, %h, %r, %f, %rd, %d are declared; every parameter is loaded into the register of its name.</param>
    /// <param name="parameters">Names of 64-bit parameters, or of 32-bit ones when they begin with "n".</param>
    /// <param name="target">The target and version.</param>
    /// <param name="module">Declarations before the entry.</param>
    public static string Text(string body, string parameters, string target = "sm_90", string module = "")
    {
        string[] names = parameters.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        string declared = string.Join(", ", names.Select(n => $".param .{Type(n)} p_{n}"));
        string loads = string.Concat(names.Select(n => $".reg .b{Type(n)[1..]} %{n};\nld.param.{Type(n)} %{n}, [p_{n}];\n"));
        return $$"""
            .version 8.4
            .target {{target}}
            .address_size 64
            {{module}}
            .visible .entry k({{declared}})
            {
            .reg .pred %p<16>; .reg .b16 %h<32>; .reg .b32 %r<128>; .reg .f32 %f<64>; .reg .b64 %rd<64>; .reg .f64 %d<16>; .reg .b32 %tx, %bx;
            mov.u32 %tx, %tid.x;
            mov.u32 %bx, %ctaid.x;
            {{loads}}
            {{body}}
            }
            """;

        static string Type(string name) => name[0] == 'n' ? "u32" : "u64";
    }

    public DeviceBuffer Buffer(long bytes)
    {
        DeviceBuffer buffer = Device.Allocate(bytes);
        _owned.Add(buffer);
        return buffer;
    }

    public unsafe DeviceBuffer Buffer<T>(ReadOnlySpan<T> values)
        where T : unmanaged
    {
        DeviceBuffer buffer = Buffer((long)values.Length * sizeof(T));
        fixed (T* data = values)
        {
            Stream.CopyToDevice(buffer.Pointer, data, buffer.ByteCount);
        }

        return buffer;
    }

    public unsafe T[] Read<T>(DeviceBuffer buffer)
        where T : unmanaged
    {
        T[] values = new T[buffer.ByteCount / sizeof(T)];
        fixed (T* data = values)
        {
            Stream.CopyToHost(data, buffer.Pointer, buffer.ByteCount);
        }

        return values;
    }

    public void Launch(string ptx, Dim3 grid, Dim3 block, int dynamicShared, params ReadOnlySpan<ulong> arguments) => Launch(ptx, grid, block, dynamicShared, false, arguments);

    public void Launch(string ptx, Dim3 grid, Dim3 block, int dynamicShared, bool overlap, ReadOnlySpan<ulong> arguments)
    {
        using IDeviceModule module = Device.LoadModule(ptx);
        Stream.Launch(module.Function("k", dynamicShared), grid, block, arguments, overlap);
    }

    /// <summary>One warp: each thread gets words of its own, computes, and leaves words of its own.</summary>
    /// <param name="body">From %r1 .. %rN (N input words) to %r101 .. %r10M (M result words).</param>
    /// <param name="inputs">Input words: thread t's word i at [i][t].</param>
    /// <param name="outputs">Result words.</param>
    public static uint[][] Words(string body, uint[][] inputs, int outputs = 1, string target = "sm_90")
    {
        using Machine machine = new();
        string loads = string.Concat(Enumerable.Range(0, inputs.Length).Select(i => $"ld.global.u32 %r{i + 1}, [%rd1+{i * 128}];\n"));
        string stores = string.Concat(Enumerable.Range(0, outputs).Select(i => $"st.global.u32 [%rd2+{i * 128}], %r{101 + i};\n"));
        string text = Text($"mul.wide.u32 %rd3, %tx, 4;\nadd.u64 %rd1, %in, %rd3;\nadd.u64 %rd2, %out, %rd3;\n{loads}{body}\n{stores}ret;", "in out", target);
        DeviceBuffer from = machine.Buffer<uint>(inputs.SelectMany(w => w).ToArray()), to = machine.Buffer(outputs * 128);
        machine.Launch(text, 1, 32, 0, Argument.Of(from.Pointer), Argument.Of(to.Pointer));
        uint[] all = machine.Read<uint>(to);
        return [.. all.Chunk(32)];
    }

    /// <summary>Runs one warp with a body that writes to "out" or not at all, and returns its fault.</summary>
    public static DeviceFaultException Fault(string body, int threads = 32, int outBytes = 4096, string module = "", int grid = 1, int shared = 0)
    {
        using Machine machine = new();
        machine.Device.InstructionBudget = 1_000_000;
        DeviceBuffer to = machine.Buffer(outBytes);
        DeviceFaultException fault = Assert.Throws<DeviceFaultException>(() => machine.Launch(Text(body, "out", module: module), grid, threads, shared, Argument.Of(to.Pointer)));
        Assert.Same(fault, Assert.Single(machine.Device.Faults));
        Assert.Equal("k", fault.Kernel);
        Assert.True(fault.Line > 0);
        return fault;
    }

    public void Dispose()
    {
        for (int i = _owned.Count - 1; i >= 0; i--)
            _owned[i].Dispose();
        Device.Dispose();
    }
}
