using Qwen.Native.Tests.Ptx;

namespace Qwen.DeviceCheck.Checks;

/// <summary>Products of warp groups in every form that the emitter writes, each beside plain loops; only where the device has them.</summary>
internal sealed class WarpGroupCheck : ICheck
{
    public string Name => "wgmma";

    public void Verify(CheckSession session)
    {
        if (session.Device.Info.Major != 9)
        {
            session.Note("the device has no wgmma");
            return;
        }

        foreach (WarpGroupForm form in WarpGroupForm.All)
        {
            session.Case(form.Describe(), () =>
            {
                string? difference = form.Difference(session.Device, session.Stream, seed: 1);
                CheckSession.True(difference is null, difference ?? "");
            });
        }
    }

    public void Time(CheckSession session)
    {
    }
}
