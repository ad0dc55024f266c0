namespace Qwen.Runtime.Engine;

/// <summary>Memory that is free for this process.</summary>
internal static class AvailableMemory
{
    /// <summary>Bytes: what the system can give without swapping, and the container allows.</summary>
    public static long Bytes()
    {
        GCMemoryInfo gc = GC.GetGCMemoryInfo();
        long free = Math.Max(gc.TotalAvailableMemoryBytes - Environment.WorkingSet, 0); // the limit of the container, or all there is
        return OperatingSystem.IsLinux() && FromMemInfo() is { } available ? Math.Min(available, free) : free;
    }

    // MemAvailable counts what the page cache would give back: mapped weights are there, and are not lost by counting them.
    private static long? FromMemInfo()
    {
        const string Field = "MemAvailable:";
        string? line = File.Exists("/proc/meminfo") ? File.ReadLines("/proc/meminfo").FirstOrDefault(l => l.StartsWith(Field, StringComparison.Ordinal)) : null;
        return line is not null && long.TryParse(line.AsSpan(Field.Length).Trim().TrimEnd("kB").Trim(), out long kilobytes) ? kilobytes << 10 : null;
    }
}
