namespace Qwen.DeviceCheck;

/// <summary>Something that only hardware can show: first that it is right, then how fast it is.</summary>
internal interface ICheck
{
    /// <summary>One or two words.</summary>
    string Name { get; }

    /// <summary>Whether it leaves the device lost, so that nothing can run after it.</summary>
    bool EndsDevice => false;

    /// <summary>Checks results, a <see cref="CheckSession.Case"/> for each thing that may fail on its own.</summary>
    void Verify(CheckSession session);

    /// <summary>Measures, by <see cref="CheckSession.Measure"/>. Only called where <see cref="Verify"/> found no fault.</summary>
    void Time(CheckSession session);
}

/// <summary>A result is wrong.</summary>
internal sealed class CheckFailedException(string message) : Exception(message);
