namespace Qwen.Host.Http;

/// <summary>Files that the program carries within itself.</summary>
internal static class EmbeddedFile
{
    /// <summary>All bytes of a file.</summary>
    public static byte[] Read(string name)
    {
        using Stream stream = typeof(EmbeddedFile).Assembly.GetManifestResourceStream(name)
            ?? throw new InvalidOperationException($"The program lacks its file {name}.");
        var content = new byte[stream.Length];
        stream.ReadExactly(content);
        return content;
    }
}
