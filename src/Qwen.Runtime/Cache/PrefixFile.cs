using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text.Json;

namespace Qwen.Runtime.Cache;

/// <summary>What the keys and values in a prefix file belong to.</summary>
/// <param name="Model">A fingerprint of the weights and hyperparameters.</param>
/// <param name="Layout">How the bytes of a block are laid out.</param>
/// <param name="BlockSize">Tokens per block.</param>
/// <param name="BlockBytes">Bytes per block.</param>
/// <param name="Root">What the first block hangs from, in hexadecimal: the salt itself is not in the file.</param>
/// <param name="Tokens">Token ids, full blocks of them.</param>
internal sealed record PrefixHeader(string Model, string Layout, int BlockSize, long BlockBytes, string Root, int[] Tokens)
{
    public int Blocks => Tokens.Length / BlockSize;
}

/// <summary>
/// A prefix on disk: magic, length of the header (4 bytes, little-endian), header (JSON), blocks, and the SHA-256 of all before. It is
/// written beside its place and moved there when it is whole and on the disk, so a crash leaves the old file or none.
/// </summary>
internal static class PrefixFile
{
    private const int MostHeader = 64 << 20, HashBytes = 32;

    private static ReadOnlySpan<byte> Magic => "QWENKV1\n"u8;

    /// <summary>Writes a file.</summary>
    /// <param name="path">Where.</param>
    /// <param name="header">What it holds.</param>
    /// <param name="readBlock">Reads a block into a buffer.</param>
    public static async Task WriteAsync(string path, PrefixHeader header, Func<int, byte[], Task> readBlock)
    {
        string unfinished = $"{path}.{Guid.NewGuid():N}.tmp";
        try
        {
            var file = new FileStream(unfinished, FileMode.CreateNew, FileAccess.Write, FileShare.None);
            await using (file.ConfigureAwait(false))
            {
                using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
                byte[] json = JsonSerializer.SerializeToUtf8Bytes(header);
                byte[] length = new byte[sizeof(int)];
                BinaryPrimitives.WriteInt32LittleEndian(length, json.Length);
                foreach (byte[] part in (byte[][])[Magic.ToArray(), length, json])
                    await PutAsync(part).ConfigureAwait(false);
                byte[] block = new byte[header.BlockBytes];
                for (int i = 0; i < header.Blocks; i++)
                {
                    await readBlock(i, block).ConfigureAwait(false);
                    await PutAsync(block).ConfigureAwait(false);
                }

                await file.WriteAsync(hash.GetHashAndReset()).ConfigureAwait(false);
                file.Flush(flushToDisk: true);

                async Task PutAsync(byte[] bytes)
                {
                    hash.AppendData(bytes);
                    await file.WriteAsync(bytes).ConfigureAwait(false);
                }
            }

            File.Move(unfinished, path, overwrite: true);
        }
        catch
        {
            File.Delete(unfinished);
            throw;
        }
    }

    /// <summary>Reads a file's header, then its blocks.</summary>
    /// <param name="path">The file.</param>
    /// <param name="accept">Looks at the header, and throws if it is not what is wanted, before a block is read.</param>
    /// <param name="writeBlock">Takes each block. What was taken counts only when the whole file is read: a damaged one is found at its end.</param>
    /// <exception cref="InvalidDataException">The file is damaged, or none of this kind.</exception>
    public static async Task<PrefixHeader> ReadAsync(string path, Func<PrefixHeader, Task> accept, Func<int, byte[], Task> writeBlock)
    {
        var file = new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.Read);
        await using (file.ConfigureAwait(false))
        {
            using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
            byte[] start = await TakeAsync(Magic.Length + sizeof(int)).ConfigureAwait(false);
            if (!start.AsSpan(0, Magic.Length).SequenceEqual(Magic))
                throw new InvalidDataException($"{path}: is no saved prefix.");
            int length = BinaryPrimitives.ReadInt32LittleEndian(start.AsSpan(Magic.Length));
            if (length <= 0 || length > Math.Min(MostHeader, file.Length))
                throw new InvalidDataException($"{path}: the header's length is {length}.");
            PrefixHeader header = Parse(path, await TakeAsync(length).ConfigureAwait(false));
            long expected = Magic.Length + sizeof(int) + length + (header.Blocks * header.BlockBytes) + HashBytes;
            if (file.Length != expected)
                throw new InvalidDataException($"{path}: has {file.Length:N0} bytes; its header says {expected:N0}.");
            await accept(header).ConfigureAwait(false);
            for (int i = 0; i < header.Blocks; i++)
                await writeBlock(i, await TakeAsync((int)header.BlockBytes).ConfigureAwait(false)).ConfigureAwait(false);
            byte[] computed = hash.GetHashAndReset(), stored = await TakeAsync(HashBytes).ConfigureAwait(false);
            return computed.AsSpan().SequenceEqual(stored) ? header : throw new InvalidDataException($"{path}: is damaged: its checksum is another one.");

            async Task<byte[]> TakeAsync(int count)
            {
                byte[] bytes = new byte[count];
                try
                {
                    await file.ReadExactlyAsync(bytes).ConfigureAwait(false);
                }
                catch (EndOfStreamException e)
                {
                    throw new InvalidDataException($"{path}: ends too soon, at {file.Length:N0} bytes.", e);
                }

                hash.AppendData(bytes);
                return bytes;
            }
        }
    }

    private static PrefixHeader Parse(string path, byte[] json)
    {
        PrefixHeader? header;
        try
        {
            header = JsonSerializer.Deserialize<PrefixHeader>(json);
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{path}: the header is damaged: {e.Message}", e);
        }

        if (header is not { Model: not null, Layout: not null, Root: not null, Tokens: not null, BlockSize: > 0 and <= 1024, BlockBytes: > 0 and <= int.MaxValue })
            throw new InvalidDataException($"{path}: the header lacks a field, or has one out of range.");
        if (header.Tokens.Length == 0 || header.Tokens.Length % header.BlockSize != 0)
            throw new InvalidDataException($"{path}: {header.Tokens.Length} tokens are no full blocks of {header.BlockSize}.");
        return header;
    }
}
