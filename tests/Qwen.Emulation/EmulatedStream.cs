using System.Diagnostics;
using Qwen.Emulation.Execution;
using Qwen.Emulation.Memory;
using Qwen.Emulation.Programs;
using Qwen.Native.Device;

namespace Qwen.Emulation;

/// <summary>Runs what it is given at once; while capturing, notes it with its arguments instead.</summary>
internal sealed unsafe class EmulatedStream(EmulatedDevice device) : IDeviceStream
{
    private List<Action>? _captured;
    private bool _isDisposed;

    public void CopyToDevice(DevicePointer to, void* from, long bytes)
    {
        nint source = (nint)from;
        Do(() => Buffer.MemoryCopy((void*)source, Written(to, bytes, "Copy to the device"), bytes, bytes));
    }

    public void CopyToHost(void* to, DevicePointer from, long bytes)
    {
        nint destination = (nint)to;
        Do(() => Buffer.MemoryCopy(device.Memory.Read(from, bytes, "Copy to the host"), (void*)destination, bytes, bytes));
    }

    public void Copy(DevicePointer to, DevicePointer from, long bytes) => Do(() =>
    {
        // What was not written stays unwritten.
        Allocation source = device.Memory.Range(from, bytes, "Copy");
        if (from.Address < to.Address + (ulong)bytes && to.Address < from.Address + (ulong)bytes && bytes > 0)
            throw new DeviceException($"Copy: the {bytes} bytes at {from} and at {to} overlap.");
        byte* data = Written(to, bytes, "Copy");
        Allocation target = device.Memory.Range(to, bytes, "Copy");
        long at = (long)(from.Address - source.Start);
        Buffer.MemoryCopy(source.Data + at, data, bytes, bytes);
        Buffer.MemoryCopy(source.Written + at, target.Written + (to.Address - target.Start), bytes, bytes);
    });

    public void Fill(DevicePointer to, byte value, long bytes) =>
        Do(() => System.Runtime.InteropServices.NativeMemory.Fill(Written(to, bytes, "Fill"), (nuint)bytes, value));

    public void Launch(IDeviceFunction function, Dim3 grid, Dim3 block, ReadOnlySpan<ulong> arguments, bool overlapPrevious = false)
    {
        EmulatedFunction kernel = function as EmulatedFunction ?? throw new ArgumentException("The function is of another device.", nameof(function));
        if (kernel.Module.Device != device)
            throw new ArgumentException("The function is of another device.", nameof(function));
        EntryProgram program = kernel.Program;
        if (grid.X <= 0 || grid.Y is <= 0 or > 65535 || grid.Z is <= 0 or > 65535)
            throw new DeviceException($"The kernel {program.Name} is launched with a grid of ({grid.X}, {grid.Y}, {grid.Z}) blocks.");
        if (block.X <= 0 || block.Y <= 0 || block.Z is <= 0 or > 64 || block.Count > 1024)
            throw new DeviceException($"The kernel {program.Name} is launched with blocks of ({block.X}, {block.Y}, {block.Z}) threads.");
        program.CheckBlock(block);
        if (arguments.Length != program.Parameters.Count)
            throw new DeviceException($"The kernel {program.Name} has {program.Parameters.Count} parameters and was given {arguments.Length} arguments.");
        byte[] parameters = new byte[program.ParameterBytes];
        for (int i = 0; i < arguments.Length; i++)
        {
            Text.PtxParameter parameter = program.Parameters[i];
            if (parameter.Bytes > 8)
                throw new DeviceException($"The parameter {parameter.Name} of the kernel {program.Name} does not fit a slot.");
            for (int b = 0; b < parameter.Bytes; b++)
                parameters[parameter.Offset + b] = (byte)(arguments[i] >> (8 * b));
        }

        Do(() => Run(kernel, grid, block, parameters, overlapPrevious && device.Info.ComputeCapability >= 90));
    }

    public void Matmul(IMatmul matmul, in MatmulOperands operands)
    {
        EmulatedMatmul product = matmul as EmulatedMatmul ?? throw new ArgumentException("The product is of another device.", nameof(matmul));
        MatmulOperands copy = operands;
        Do(() =>
        {
            device.FirstUnfinished = ++device.Serial;
            product.Run(copy);
        });
    }

    public void Record(IDeviceEvent mark)
    {
        EmulatedEvent point = (EmulatedEvent)mark;
        if (_captured is null)
            point.Record();
    }

    public void Wait(IDeviceEvent mark) => ArgumentNullException.ThrowIfNull(mark);

    public void BeginCapture()
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        if (_captured is not null)
            throw new DeviceException("The stream is capturing already.");
        _captured = [];
        device.Capturing++;
    }

    public IDeviceGraph EndCapture()
    {
        List<Action> captured = _captured ?? throw new DeviceException("The stream is not capturing.");
        _captured = null;
        device.Capturing--;
        device.GraphCreated();
        return new EmulatedGraph(device, captured);
    }

    public void Launch(IDeviceGraph graph)
    {
        EmulatedGraph recorded = (EmulatedGraph)graph;
        ObjectDisposedException.ThrowIf(recorded.IsDisposed, graph);
        if (_captured is not null)
            throw new DeviceException("A graph is launched while the stream is capturing.");
        foreach (Action action in recorded.Actions)
            Do(action);
    }

    public void Synchronize()
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        if (_captured is not null)
            throw new DeviceException("The stream is synchronized while it is capturing.");
    }

    public void Dispose()
    {
        if (_isDisposed)
            return;
        _isDisposed = true;
        if (_captured is not null)
            device.Capturing--;
        device.StreamDisposed();
    }

    private void Do(Action action)
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        ObjectDisposedException.ThrowIf(device.IsDisposed, device);
        if (_captured is not null)
            _captured.Add(action);
        else
            action();
    }

    private byte* Written(DevicePointer to, long bytes, string what)
    {
        // A launch never overlaps a copy: all before is done.
        device.FirstUnfinished = ++device.Serial + 1;
        return device.Memory.Write(to, bytes, what);
    }

    private void Run(EmulatedFunction kernel, Dim3 grid, Dim3 block, byte[] parameters, bool overlaps)
    {
        ObjectDisposedException.ThrowIf(kernel.Module.IsDisposed, kernel.Module);
        long serial = ++device.Serial;
        if (!overlaps)
            device.FirstUnfinished = serial;
        LaunchContext launch = new(
            device.Memory, grid, block, parameters, kernel.DynamicSharedBytes, device.Info.Multiprocessors, serial, overlaps ? device.FirstUnfinished : null, device.InstructionBudget);
        int resident = Math.Max(1, kernel.BlocksPerMultiprocessor((int)block.Count)) * device.Info.Multiprocessors;
        try
        {
            Grid.Run(kernel.Program, launch, kernel.SharedBytes, resident);
        }
        catch (DeviceFaultException fault)
        {
            device.Note(fault);
            throw;
        }
        finally
        {
            launch.Statistics.Add(1, 0, 0, 0, 0, 0);
            device.Statistics.Add(launch.Statistics);
        }
    }
}

/// <summary>A mark with its time.</summary>
internal sealed class EmulatedEvent(EmulatedDevice device) : IDeviceEvent
{
    private long? _time;
    private bool _isDisposed;

    public bool IsDone => true;

    public void Record()
    {
        ObjectDisposedException.ThrowIf(_isDisposed, this);
        _time = Stopwatch.GetTimestamp();
    }

    public void Synchronize() => ObjectDisposedException.ThrowIf(_isDisposed, this);

    public float MillisecondsSince(IDeviceEvent earlier)
    {
        if (_time is not { } end || ((EmulatedEvent)earlier)._time is not { } start)
            throw new DeviceException("An event was not recorded.");
        return (float)Stopwatch.GetElapsedTime(start, end).TotalMilliseconds;
    }

    public void Dispose()
    {
        if (!_isDisposed)
            device.EventDisposed();
        _isDisposed = true;
    }
}

/// <summary>Noted calls.</summary>
internal sealed class EmulatedGraph(EmulatedDevice device, List<Action> actions) : IDeviceGraph
{
    public IReadOnlyList<Action> Actions { get; } = actions;

    public bool IsDisposed { get; private set; }

    public int Nodes => Actions.Count;

    public void Dispose()
    {
        if (!IsDisposed)
            device.GraphDisposed();
        IsDisposed = true;
    }
}
