namespace Qwen.Runtime.Tokenization;

/// <summary>GPT-2's way to write any byte as a printable character, in which vocabularies of byte-level BPE are stored.</summary>
internal static class ByteAlphabet
{
    private static readonly char[] Chars = new char[256];
    private static readonly short[] Bytes = new short[512];

    static ByteAlphabet()
    {
        Array.Fill(Bytes, (short)-1);
        int other = 256;
        for (int b = 0; b < 256; b++)
        {
            bool isPrintable = b is (>= '!' and <= '~') or (>= 0xa1 and <= 0xac) or (>= 0xae and <= 0xff);
            Chars[b] = (char)(isPrintable ? b : other++);
            Bytes[Chars[b]] = (short)b;
        }
    }

    public static char CharOf(byte b) => Chars[b];

    /// <summary>The bytes a vocabulary entry stands for; false where it has characters outside the alphabet.</summary>
    public static bool TryDecode(ReadOnlySpan<char> text, Span<byte> bytes)
    {
        for (int i = 0; i < text.Length; i++)
        {
            if (text[i] >= Bytes.Length || Bytes[text[i]] < 0)
                return false;
            bytes[i] = (byte)Bytes[text[i]];
        }

        return true;
    }
}
