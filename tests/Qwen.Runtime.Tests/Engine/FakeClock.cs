namespace Qwen.Runtime.Tests.Engine;

/// <summary>A clock that stands until it is moved.</summary>
internal sealed class FakeClock : TimeProvider
{
    private long _now = 1;

    public override long TimestampFrequency => TimeSpan.TicksPerSecond;

    public override long GetTimestamp() => Volatile.Read(ref _now);

    public void Advance(TimeSpan time) => Interlocked.Add(ref _now, time.Ticks);
}
