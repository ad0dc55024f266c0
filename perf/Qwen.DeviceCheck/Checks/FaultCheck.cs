using Qwen.Native.Device;
using Qwen.Native.Interop;

namespace Qwen.DeviceCheck.Checks;

/// <summary>A kernel that writes where nothing is: the error says that the device is lost. It is, so this check is the last one.</summary>
internal sealed class FaultCheck : ICheck
{
    public string Name => "fault";

    public bool EndsDevice => true;

    public void Verify(CheckSession session)
    {
        using IDeviceModule module = session.Device.LoadModule(Ptx.Poke);
        IDeviceFunction poke = module.Function("poke");
        session.Stream.Launch(poke, 1, 1, [Argument.Of(new DevicePointer(0x1000))]);
        try
        {
            session.Stream.Synchronize();
        }
        catch (CudaException e)
        {
            CheckSession.True(e.ContextLost, $"this error should end the device: {e.Message}");
            session.Note(e.Message);
            return;
        }

        throw new CheckFailedException("a write to address 0x1000 went through");
    }

    public void Time(CheckSession session)
    {
    }
}
