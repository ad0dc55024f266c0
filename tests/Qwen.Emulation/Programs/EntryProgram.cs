using System.Collections.Concurrent;
using Qwen.Emulation.Execution;
using Qwen.Emulation.Instructions;
using Qwen.Emulation.Text;
using Qwen.Native.Device;

namespace Qwen.Emulation.Programs;

/// <summary>An entry, decoded: its instructions, registers and memory.</summary>
internal sealed class EntryProgram : IDisposable
{
    private const int MaxInstructions = 1 << 18, RegistersPerMultiprocessor = 1 << 16;
    private readonly ConcurrentBag<Block> _blocks = [];
    private readonly int _maxThreads;
    private readonly bool _exactThreads;

    public EntryProgram(PtxEntry entry, IReadOnlyDictionary<string, ulong> moduleSymbols, IEnumerable<PtxVariable> moduleShared)
    {
        Name = entry.Name;
        (_maxThreads, _exactThreads) = (entry.MaxThreads, entry.ExactThreads);
        if (_maxThreads > 0 && entry.BlocksPerMultiprocessor > 0)
            Registers = Math.Min(255, RegistersPerMultiprocessor / (_maxThreads * entry.BlocksPerMultiprocessor)) / 8 * 8;
        if (entry.Instructions.Count > MaxInstructions)
            throw new PtxException(entry.Line, "", $"{Name} has more than {MaxInstructions} instructions.");
        Dictionary<string, ulong> symbols = new(moduleSymbols);
        Place(entry, moduleShared, symbols);
        Parameters = entry.Parameters;
        ParameterBytes = entry.ParameterBytes;
        EntryScope scope = new(Layout, symbols, entry.Parameters.ToDictionary(p => p.Name));
        List<Instruction> code = [];
        foreach (PtxInstruction text in entry.Instructions)
            code.Add(InstructionSet.Decode(text, scope));
        code.Add(new Exit { Line = entry.Line, Text = "the end of the body" });
        Code = [.. code];
        Join();
        OrdersBlocks = Code.Any(i => i.OrdersBlocks);
    }

    public string Name { get; }

    public RegisterLayout Layout { get; } = new();

    public Instruction[] Code { get; }

    public IReadOnlyList<PtxParameter> Parameters { get; }

    public int ParameterBytes { get; }

    /// <summary>Registers that a thread begins with, where the text says how many blocks shall fit a multiprocessor, so that the assembler uses all there are; else 0.</summary>
    public int Registers { get; }

    public int StaticSharedBytes { get; private set; }

    public int LocalBytes { get; private set; }

    /// <summary>Whether blocks communicate, so that they run in a fixed order.</summary>
    public bool OrdersBlocks { get; }

    public void CheckBlock(Dim3 block)
    {
        if (_maxThreads > 0 && (block.Count > _maxThreads || (_exactThreads && block.Count != _maxThreads)))
            throw new DeviceException($"The kernel {Name} is for blocks of {(_exactThreads ? "exactly" : "at most")} {_maxThreads} threads, not {block.Count}.");
    }

    public Block Rent(int threads, int sharedBytes)
    {
        while (_blocks.TryTake(out Block? block))
        {
            if (block.Threads == threads && block.Shared.Bytes == sharedBytes)
                return block;
            block.Dispose();
        }

        return new Block(this, threads, sharedBytes);
    }

    public void Return(Block block) => _blocks.Add(block);

    public void Dispose()
    {
        while (_blocks.TryTake(out Block? block))
            block.Dispose();
    }

    private void Place(PtxEntry entry, IEnumerable<PtxVariable> moduleShared, Dictionary<string, ulong> symbols)
    {
        long shared = 0, local = 0;
        List<PtxVariable> dynamic = [];
        foreach (PtxVariable variable in moduleShared.Concat(entry.Variables))
        {
            if (variable.Bytes == 0)
            {
                dynamic.Add(variable);
                continue;
            }

            ref long at = ref shared;
            if (variable.Space == StateSpace.Local)
                at = ref local;
            else if (variable.Space != StateSpace.Shared)
                throw new PtxException(variable.Line, "", $"{variable.Name} is declared in a body, but is neither shared nor local.");
            at = (at + variable.Alignment - 1) / variable.Alignment * variable.Alignment;
            if (!symbols.TryAdd(variable.Name, (ulong)at))
                throw new PtxException(variable.Line, "", $"{variable.Name} is declared twice.");
            at += variable.Bytes;
            if (shared > 256 << 10 || local > 512 << 10)
                throw new PtxException(variable.Line, "", $"{Name} has too much shared or local memory.");
        }

        StaticSharedBytes = (int)shared;
        if (dynamic.Count > 0)
        {
            int alignment = dynamic.Max(v => v.Alignment);
            StaticSharedBytes = (StaticSharedBytes + alignment - 1) / alignment * alignment;
        }

        foreach (PtxVariable variable in dynamic)
        {
            if (!symbols.TryAdd(variable.Name, (ulong)StaticSharedBytes))
                throw new PtxException(variable.Line, "", $"{variable.Name} is declared twice.");
        }

        LocalBytes = (int)local;
    }

    private void Join()
    {
        int[] meets = ControlFlow.PostDominators(Code.Length, at => Code[at] switch
        {
            Branch branch => (branch.To, branch.Guard.Index < 0 ? -1 : at + 1),
            Exit exit => (Code.Length, exit.Guard.Index < 0 ? -1 : at + 1),
            _ => (at + 1, -1),
        });
        for (int i = 0; i < Code.Length; i++)
        {
            if (Code[i] is Branch branch)
                branch.Meet = meets[i];
        }
    }
}
