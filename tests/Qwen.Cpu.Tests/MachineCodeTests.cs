using Qwen.Cpu.MachineCode;

namespace Qwen.Cpu.Tests;

public sealed unsafe class MachineCodeTests
{
    /// <summary>Each instruction as GNU as 2.40 encodes it.</summary>
    [Fact]
    public void Assembler_EncodesAsGnuAsDoes()
    {
        Check("62617C48106007", a => a.Load(28, new Memory(Register.Rax, 0x1C0))); // vmovups zmm28, [rax + 0x1c0]
        Check("62617C48107910", a => a.Load(31, new Memory(Register.Rcx, 0x400)));
        Check("62C17C481083FDFFFFFF", a => a.Load(16, new Memory(Register.R11, -3)));
        Check("62617C48114603", a => a.Store(new Memory(Register.Rsi, 0xC0), 24));
        Check("62E27D48584210", a => a.Broadcast(16, new Memory(Register.Rdx, 0x40))); // vpbroadcastd zmm16, [rdx + 0x40]
        Check("62E27D48585B7F", a => a.Broadcast(19, new Memory(Register.Rbx, 0x1FC)));
        Check("62012540EFDB", a => a.Zero(27)); // vpxord zmm27, zmm27, zmm27
        Check("62C21550504907", a => a.DotBytes(17, 29, new Memory(Register.R9, 0x1C))); // vpdpbusd zmm17, zmm29, [r9 + 0x1c]{1to16}
        Check("62D25558509A01020000", a => a.DotBytes(3, 5, new Memory(Register.R10, 0x201)));
        Check("62A17C485BD2", a => a.ConvertToSingle(18)); // vcvtdq2ps zmm18, zmm18
        Check("62E10C50596250", a => a.Multiply(20, 30, new Memory(Register.Rdx, 0x140))); // vmulps zmm20, zmm30, [rdx + 0x140]{1to16}
        Check("62227D40B8C4", a => a.MultiplyAdd(24, 16, 20)); // vfmadd231ps zmm24, zmm16, zmm20
        Check("62620550B88240020000", a => a.MultiplyAdd(24, 31, new Memory(Register.Rdx, 0x240)));
        Check("4C8B4730", a => a.Load(Register.R8, new Memory(Register.Rdi, 0x30)));
        Check("488B6F28", a => a.Load(Register.Rbp, new Memory(Register.Rdi, 0x28)));
        Check("4881C600010000", a => a.Add(Register.Rsi, 0x100));
        Check("4981C220000000", a => a.Add(Register.R10, 0x20)); // as takes an 8-bit form
        Check("4801EB", a => a.Add(Register.Rbx, Register.Rbp));
        Check("53", a => a.Push(Register.Rbx));
        Check("5D", a => a.Pop(Register.Rbp));
        Check("400F185340", a => a.Prefetch(new Memory(Register.Rbx, 0x40))); // with a prefix that as leaves out
        Check("410F189140010000", a => a.Prefetch(new Memory(Register.R9, 0x140)));
        Check("48FFCF0F85F7FFFFFF", a => a.DecrementAndLoop(Register.Rdi, 0)); // dec rdi; jnz to the start
        Check("C3", a => a.Return());

        static void Check(string expected, Action<Assembler> instruction)
        {
            var assembler = new Assembler();
            instruction(assembler);
            Assert.Equal(expected, Convert.ToHexString(assembler.Code));
        }
    }

    [SkippableFact]
    public void ExecutableMemory_RunsWhatWasPutThere()
    {
        var assembler = new Assembler();
        assembler.Load(Register.Rax, new Memory(Register.Rdi, 8));
        assembler.Add(Register.Rax, 7);
        assembler.Return();
        byte* code = ExecutableMemory.TryPut(assembler.Code);
        Skip.If(code is null, "This system runs no code that was not there from the start, or is not Linux on x86-64.");
        long* values = stackalloc long[] { 1, 35 };
        Assert.Equal(42, ((delegate* unmanaged<long*, long>)code)(values));
    }
}
