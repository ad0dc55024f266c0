using System.Buffers.Binary;

namespace Qwen.Cpu.MachineCode;

/// <summary>A 64-bit general register by its number in an instruction. Those not said otherwise, a function may overwrite in the System V calling convention.</summary>
internal enum Register
{
    Rax = 0,
    Rcx = 1,
    Rdx = 2,

    /// <summary>The caller's: to be saved.</summary>
    Rbx = 3,

    /// <summary>The caller's: to be saved.</summary>
    Rbp = 5,
    Rsi = 6,

    /// <summary>Holds the first argument.</summary>
    Rdi = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
}

/// <summary>Bytes at an offset from where a register points.</summary>
internal readonly record struct Memory(Register Base, int Offset);

/// <summary>Writes x86-64 machine code: the few instructions that kernels need which .NET has no intrinsics for.</summary>
/// <remarks>
/// Encodings: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, 2.7 (EVEX) and the instructions' pages. All vectors have
/// 512 bits and are numbered 0 to 31; functions that use only 16 to 31 leave nothing behind that slows SSE code, and need no VZEROUPPER.
/// </remarks>
internal sealed class Assembler
{
    private const int Map0F = 1, Map0F38 = 2; // opcode maps
    private const int None = 0, P66 = 1; // mandatory prefixes

    private readonly List<byte> _code = [];

    /// <summary>The bytes so far.</summary>
    public ReadOnlySpan<byte> Code => _code.ToArray();

    /// <summary>Where the next instruction goes: a place to jump back to.</summary>
    public int Here => _code.Count;

    /// <summary>zmm = 64 bytes.</summary>
    public void Load(int zmm, Memory from) => Evex(Map0F, None, 0x10, zmm, 0, from, scale: 64);

    /// <summary>64 bytes = zmm.</summary>
    public void Store(Memory to, int zmm) => Evex(Map0F, None, 0x11, zmm, 0, to, scale: 64);

    /// <summary>Each 32 bits of zmm = the 4 bytes.</summary>
    public void Broadcast(int zmm, Memory from) => Evex(Map0F38, P66, 0x58, zmm, 0, from, scale: 4);

    /// <summary>zmm = 0.</summary>
    public void Zero(int zmm) => Evex(Map0F, P66, 0xEF, zmm, zmm, zmm);

    /// <summary>VPDPBUSD: each int32 of zmm += four unsigned bytes of <paramref name="unsigned"/> times the four signed bytes in memory.</summary>
    public void DotBytes(int zmm, int unsigned, Memory fourSigned) => Evex(Map0F38, P66, 0x50, zmm, unsigned, fourSigned, scale: 4, broadcast: true);

    /// <summary>zmm = its int32s as floats.</summary>
    public void ConvertToSingle(int zmm) => Evex(Map0F, None, 0x5B, zmm, 0, zmm);

    /// <summary>zmm = a times the float in memory.</summary>
    public void Multiply(int zmm, int a, Memory b) => Evex(Map0F, None, 0x59, zmm, a, b, scale: 4, broadcast: true);

    /// <summary>zmm += a * b, rounded once.</summary>
    public void MultiplyAdd(int zmm, int a, int b) => Evex(Map0F38, P66, 0xB8, zmm, a, b);

    /// <summary>zmm += a times the float in memory, rounded once.</summary>
    public void MultiplyAdd(int zmm, int a, Memory b) => Evex(Map0F38, P66, 0xB8, zmm, a, b, scale: 4, broadcast: true);

    /// <summary>register = 8 bytes.</summary>
    public void Load(Register register, Memory from)
    {
        Emit(0x48 | (((int)register >> 3) << 2) | ((int)from.Base >> 3), 0x8B);
        Operand((int)register, from, scale: 1);
    }

    /// <summary>register += value.</summary>
    public void Add(Register register, int value)
    {
        Emit(0x48 | ((int)register >> 3), 0x81, 0xC0 | ((int)register & 7));
        Emit32(value);
    }

    /// <summary>register += other.</summary>
    public void Add(Register register, Register other) =>
        Emit(0x48 | (((int)other >> 3) << 2) | ((int)register >> 3), 0x01, 0xC0 | (((int)other & 7) << 3) | ((int)register & 7));

    /// <summary>Puts one of the first eight registers on the stack.</summary>
    public void Push(Register register) => Emit(0x50 | (int)register);

    /// <summary>Takes it from there.</summary>
    public void Pop(Register register) => Emit(0x58 | (int)register);

    /// <summary>Asks L2 for a cache line.</summary>
    public void Prefetch(Memory line)
    {
        Emit(0x40 | ((int)line.Base >> 3), 0x0F, 0x18);
        Operand(2, line, scale: 1);
    }

    /// <summary>register -= 1; goes to <paramref name="target"/> unless it is zero now.</summary>
    public void DecrementAndLoop(Register register, int target)
    {
        Emit(0x48 | ((int)register >> 3), 0xFF, 0xC8 | ((int)register & 7), 0x0F, 0x85);
        Emit32(target - (Here + sizeof(int)));
    }

    /// <summary>Back to the caller.</summary>
    public void Return() => Emit(0xC3);

    /// <summary>Fills up with traps to a multiple of 64 bytes, where the next function may begin.</summary>
    public void Align()
    {
        while (Here % 64 != 0)
            Emit(0xCC);
    }

    private void Evex(int map, int prefix, int opcode, int register, int source, Memory memory, int scale, bool broadcast = false)
    {
        Prefix(map, prefix, opcode, register, source, (int)memory.Base, broadcast);
        Operand(register, memory, scale);
    }

    private void Evex(int map, int prefix, int opcode, int register, int source, int other)
    {
        Prefix(map, prefix, opcode, register, source, other, broadcast: false);
        Emit(0xC0 | ((register & 7) << 3) | (other & 7));
    }

    /// <summary>The four bytes of EVEX, in which the upper bits of registers' numbers are inverted, and the opcode.</summary>
    private void Prefix(int map, int prefix, int opcode, int register, int source, int other, bool broadcast) => Emit(
        0x62,
        Inverted(register, 3, 7) | Inverted(other, 4, 6) | Inverted(other, 3, 5) | Inverted(register, 4, 4) | map,
        ((~source & 15) << 3) | 4 | prefix,
        0x40 | (broadcast ? 0x10 : 0) | Inverted(source, 4, 3), // 0x40: 512 bits
        opcode);

    private static int Inverted(int number, int bit, int place) => ((~number >> bit) & 1) << place;

    /// <summary>ModRM and the offset: one byte where it is a small multiple of what the instruction reads, else four.</summary>
    private void Operand(int register, Memory memory, int scale)
    {
        int fields = ((register & 7) << 3) | ((int)memory.Base & 7);
        if (memory.Offset % scale == 0 && memory.Offset / scale is >= sbyte.MinValue and <= sbyte.MaxValue)
        {
            Emit(0x40 | fields, (byte)(memory.Offset / scale));
            return;
        }

        Emit(0x80 | fields);
        Emit32(memory.Offset);
    }

    private void Emit(params ReadOnlySpan<int> bytes)
    {
        foreach (int b in bytes)
            _code.Add((byte)b);
    }

    private void Emit32(int value)
    {
        Span<byte> bytes = stackalloc byte[sizeof(int)];
        BinaryPrimitives.WriteInt32LittleEndian(bytes, value);
        _code.AddRange(bytes);
    }
}
