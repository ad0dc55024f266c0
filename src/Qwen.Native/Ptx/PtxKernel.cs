namespace Qwen.Native.Ptx;

/// <summary>A kernel as PTX text, with what a launch must know of it.</summary>
/// <param name="Name">The entry's name.</param>
/// <param name="Text">The module: one entry.</param>
/// <param name="Threads">Threads of a block.</param>
/// <param name="DynamicSharedBytes">Dynamic shared memory of a block: 0 where all of it is static.</param>
public sealed record PtxKernel(string Name, string Text, int Threads, int DynamicSharedBytes);
