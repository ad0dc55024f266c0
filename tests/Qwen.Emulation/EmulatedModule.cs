using Qwen.Emulation.Memory;
using Qwen.Emulation.Programs;
using Qwen.Emulation.Text;
using Qwen.Native.Device;

namespace Qwen.Emulation;

/// <summary>PTX text, parsed and decoded, with its module-level variables in global memory.</summary>
internal sealed class EmulatedModule : IDeviceModule
{
    private readonly Dictionary<string, EntryProgram> _entries = [];
    private readonly List<Allocation> _variables = [];

    public EmulatedModule(EmulatedDevice device, string ptx)
    {
        Device = device;
        PtxModule module = Parser.Parse(ptx);
        (int capability, bool isSpecific) = Targets.Check(module, device.Info);
        Dictionary<string, ulong> symbols = [];
        try
        {
            foreach (PtxVariable variable in module.Variables.Where(v => v.Space != StateSpace.Shared))
            {
                if (!symbols.TryAdd(variable.Name, Place(variable)))
                    throw new PtxException(variable.Line, "", $"{variable.Name} is declared twice.");
            }

            foreach (PtxEntry entry in module.Entries)
            {
                entry.Instructions.ForEach(i => Targets.Check(i, module.Version, capability, isSpecific));
                EntryProgram program = new(entry, symbols, module.Variables.Where(v => v.Space == StateSpace.Shared));
                if (!_entries.TryAdd(entry.Name, program))
                    throw new PtxException(entry.Line, "", $"the entry {entry.Name} is there twice.");
            }
        }
        catch
        {
            Free();
            throw;
        }
    }

    public EmulatedDevice Device { get; }

    public bool IsDisposed { get; private set; }

    public IDeviceFunction Function(string entry, int dynamicSharedBytes = 0)
    {
        ObjectDisposedException.ThrowIf(IsDisposed, this);
        ArgumentOutOfRangeException.ThrowIfNegative(dynamicSharedBytes);
        if (!_entries.TryGetValue(entry, out EntryProgram? program))
            throw new DeviceException($"The module has no entry {entry}.");
        if (program.StaticSharedBytes + dynamicSharedBytes > Device.Info.SharedMemoryPerBlock)
        {
            throw new DeviceException($"The kernel {entry} wants {program.StaticSharedBytes} + {dynamicSharedBytes} bytes of shared memory; " +
                $"a block has at most {Device.Info.SharedMemoryPerBlock}.");
        }

        if (program.StaticSharedBytes > 48 << 10)
            throw new DeviceException($"The kernel {entry} wants {program.StaticSharedBytes} bytes of static shared memory; more than 48 KiB must be dynamic.");
        return new EmulatedFunction(this, program, dynamicSharedBytes);
    }

    public void Dispose()
    {
        if (IsDisposed)
            return;
        IsDisposed = true;
        Free();
        Device.ModuleDisposed();
    }

    private void Free()
    {
        foreach (EntryProgram program in _entries.Values)
            program.Dispose();
        foreach (Allocation allocation in _variables)
            Device.Memory.Free(allocation);
    }

    private unsafe ulong Place(PtxVariable variable)
    {
        Allocation allocation = Device.Memory.Allocate(variable.Bytes, variable.Space == StateSpace.Constant);
        _variables.Add(allocation);

        // Module variables without a value are zero.
        new Span<byte>(allocation.Written, variable.Bytes).Fill(1);
        variable.Initial?.CopyTo(new Span<byte>(allocation.Data, variable.Bytes));
        return allocation.Start;
    }
}

/// <summary>An entry with its dynamic shared memory.</summary>
internal sealed class EmulatedFunction(EmulatedModule module, EntryProgram program, int dynamicSharedBytes) : IDeviceFunction
{
    public EmulatedModule Module { get; } = module;

    public EntryProgram Program { get; } = program;

    public int DynamicSharedBytes { get; } = dynamicSharedBytes;

    public int SharedBytes => Program.StaticSharedBytes + DynamicSharedBytes;

    public string Name => Program.Name;

    /// <summary>The registers are those of the text: what an assembler would make of them is not known here.</summary>
    public FunctionResources Resources => new(Program.Layout.RegisterCount, Program.StaticSharedBytes, Program.LocalBytes);

    public int BlocksPerMultiprocessor(int threads)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(threads);
        DeviceInfo info = Module.Device.Info;
        int byShared = info.SharedMemoryPerMultiprocessor / (SharedBytes + 1024);
        return Math.Min(Math.Min(info.ThreadsPerMultiprocessor / ((threads + 31) / 32 * 32), byShared), 32);
    }
}
