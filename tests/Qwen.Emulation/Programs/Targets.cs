using Qwen.Emulation.Text;
using Qwen.Native.Device;

namespace Qwen.Emulation.Programs;

/// <summary>What a driver checks before it compiles: the PTX version and the target of the text.</summary>
internal static class Targets
{
    public static void Check(PtxModule module, DeviceInfo device)
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
    }
}
