using Qwen.Emulation.Text;
using Qwen.Native.Device;

namespace Qwen.Emulation.Programs;

/// <summary>What a driver checks before it compiles: the PTX version and the target of the text, and that they have the instructions used.</summary>
internal static class Targets
{
    /// <summary>Checks a module; the compute capability that its text is for, and whether for that alone.</summary>
    public static (int Capability, bool IsSpecific) Check(PtxModule module, DeviceInfo device)
    {
        if (module.Version > device.PtxVersion)
        {
            throw new PtxException(1, $".version {module.Version / 10}.{module.Version % 10}",
                $"the driver compiles PTX up to {device.PtxVersion / 10}.{device.PtxVersion % 10}.");
        }

        string target = module.Target;
        bool specific = target.EndsWith('a');
        if (!target.StartsWith("sm_", StringComparison.Ordinal) || !int.TryParse(target.AsSpan(3, Math.Max(0, target.Length - (specific ? 4 : 3))), out int capability))
            throw new PtxException(1, $".target {target}", "the target is not known.");
        if (capability > device.ComputeCapability || (specific && capability != device.ComputeCapability))
            throw new PtxException(1, $".target {target}", $"the device has compute capability {device.Major}.{device.Minor}.");
        int least = (capability, specific) switch
        {
            ( >= 90, true) => 80,
            ( >= 87, _) => 78,
            (86, _) => 71,
            _ => 70,
        };
        if (module.Version < least)
            throw new PtxException(1, $".target {target}", $"the target needs PTX {least / 10}.{least % 10}.");
        return (capability, specific);
    }

    /// <summary>Checks that the text's version and target have an instruction (PTX ISA, release notes; as ptxas 11.8 and nvPTXCompiler 12.2 refuse it).</summary>
    public static void Check(PtxInstruction instruction, int version, int capability, bool isSpecific)
    {
        if (!isSpecific && (instruction.Opcode.StartsWith("wgmma.", StringComparison.Ordinal) || instruction.Opcode.StartsWith("setmaxnreg.", StringComparison.Ordinal)))
            throw new PtxException(instruction.Line, instruction.Text, "the instruction needs a target of one architecture alone, sm_90a.");
        (int needsVersion, int needsCapability) = Needs(instruction.Opcode.Split('.'), capability);
        if (version < needsVersion || capability < needsCapability)
        {
            throw new PtxException(instruction.Line, instruction.Text,
                $"the instruction needs PTX {needsVersion / 10}.{needsVersion % 10} and sm_{needsCapability}; the text is for {version / 10}.{version % 10} and sm_{capability}.");
        }
    }

    private static (int Version, int Capability) Needs(string[] opcode, int capability)
    {
        bool bfloat = opcode.Contains("bf16") || opcode.Contains("bf16x2");
        bool float8 = opcode.Any(m => m.StartsWith("e4m3", StringComparison.Ordinal) || m.StartsWith("e5m2", StringComparison.Ordinal));
        switch (opcode[0])
        {
            case "mma" when float8:
                return (opcode[^1] == "f16" ? 87 : 84, 89);
            case "cvt" when float8:
                return capability >= 90 ? (78, 90) : (81, 89);
            case "cvt" when opcode[^1] == "bf16":
                return (71, 80);
            case "stmatrix" or "griddepcontrol":
            case "add" or "sub" or "mul" or "ex2" or "atom" or "red" when bfloat:
                return (78, 90);
            case "red" when opcode.Contains("v2") || opcode.Contains("v4"):
                return (81, 90);
            case "mbarrier" when opcode.Contains("expect_tx"):
            case "cp" when opcode.Contains("bulk"):
            case "fence" when opcode.Contains("proxy") || opcode.Contains("mbarrier_init"):
            case "elect":
            case "wgmma" or "setmaxnreg":
                return (80, 90);
            case "mbarrier" when opcode.Contains("try_wait"):
                return (78, 90);
            case "movmatrix":
            case not null when opcode.Contains("shared::cta"):
                return (78, 80);
            case "createpolicy":
            case not null when opcode.Any(m => m.StartsWith("L1::", StringComparison.Ordinal) || m.StartsWith("L2::", StringComparison.Ordinal)):
                return (74, 80);
            default:
                return (70, 80);
        }
    }
}
