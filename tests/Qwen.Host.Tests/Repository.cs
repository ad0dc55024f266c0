namespace Qwen.Host.Tests;

/// <summary>Where tests find files of the repository, and the data of independent programs that lies beside it on the developers' machines.</summary>
internal static class Repository
{
    /// <summary>A file or folder of the golden data; the test is skipped, saying so, where it is not there.</summary>
    public static string Golden(params string[] path)
    {
        string full = Path.GetFullPath(Path.Combine([Root(), "..", "shared", "golden", .. path]));
        Skip.IfNot(Path.Exists(full), $"The golden data is not here: {full}");
        return full;
    }

    /// <summary>The folder of the solution.</summary>
    public static string Root()
    {
        for (DirectoryInfo? folder = new(AppContext.BaseDirectory); folder is not null; folder = folder.Parent)
        {
            if (File.Exists(Path.Combine(folder.FullName, "Engine.sln")))
                return folder.FullName;
        }

        throw new DirectoryNotFoundException($"No folder above {AppContext.BaseDirectory} holds Engine.sln.");
    }
}
