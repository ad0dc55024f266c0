using Qwen.Emulation;
using Qwen.Native.Device;
using Qwen.Native.Kernels;
using Qwen.Native.Ptx;

namespace Qwen.Native.Tests.Emulation;

/// <summary>Damaged texts are refused with a reason, or are still texts; nothing else happens.</summary>
public sealed class ParserFuzzTests
{
    private const string Marks = "{}[](),;:.%@!|+-<>0xfr\n\"/*";

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void MutatedTexts_AreRefusedOrTaken(int seed)
    {
        Random random = new(seed);
        string[] texts = [.. KernelCatalog.All(new PtxTarget(90, 84)).Take(40).Select(k => k.Text).OrderBy(t => t.Length).Take(8)];
        using EmulatedDevice device = new();
        device.InstructionBudget = 10_000;
        int refused = 0;
        for (int round = 0; round < 250; round++)
        {
            string text = texts[random.Next(texts.Length)];
            for (int edits = random.Next(1, 4); edits > 0; edits--)
                text = Mutate(random, text);
            try
            {
                using IDeviceModule module = device.LoadModule(text);
            }
            catch (DeviceException exception)
            {
                Assert.NotEmpty(exception.Message);
                refused++;
            }
        }

        Assert.InRange(refused, 100, 249);
    }

    [Theory]
    [InlineData("")]
    [InlineData(".version")]
    [InlineData(".version 8.0 .target sm_90 .address_size 32")]
    [InlineData(".version 8.0 .target sm_90 .entry k( {")]
    [InlineData(".version 8.0 .target sm_90 .entry k() { .reg .b32 %r<99999999>; }")]
    [InlineData(".version 8.0 .target sm_90 .entry k() { .shared .b8 s[999999999999]; }")]
    [InlineData(".version 8.0 .target sm_90 .global .b8 g[9999999999];")]
    [InlineData(".version 8.0 .target sm_90 .entry k() { /* }")]
    [InlineData(".version 8.0 .target sm_90 .entry k() { \u0001 }")]
    [InlineData(".version 8.0 .target sm_90 .entry k() { mov.u32 }")]
    [InlineData(".version 8.0 .target sm_90 .entry k() { L: L: ret; }")]
    [InlineData(".version 99999999999999999999.1 .target sm_90")]
    public void Texts_ThatAreNone_AreRefused(string text)
    {
        using EmulatedDevice device = new();
        Assert.Throws<PtxException>(() => device.LoadModule(text));
    }

    private static string Mutate(Random random, string text)
    {
        int at = random.Next(text.Length), length = Math.Min(random.Next(1, 12), text.Length - at), from = random.Next(text.Length - length);
        return random.Next(5) switch
        {
            0 => text.Remove(at, length),
            1 => text.Insert(at, text.Substring(from, length)),
            2 => text.Remove(at, length).Insert(at, text.Substring(from, length)),
            3 => text[..at] + Marks[random.Next(Marks.Length)] + text[(at + 1)..],
            _ => text[..at] + (char)random.Next(1, 0x250) + text[(at + 1)..],
        };
    }
}
