using Qwen.Native.Device;

namespace Qwen.Native.Tests.Device;

public sealed class JitLogTests
{
    [Fact]
    public void Explain_QuotesLines_AndLeavesOutNumbersThatAreNone()
    {
        string text = JitLog.Explain("ptxas application ptx input, line 2; error : bad\nptxas fatal : at line 9, line 0\n", "one\n  two  \nthree");
        Assert.Equal("\nptxas application ptx input, line 2; error : bad\n    2: two\nptxas fatal : at line 9, line 0", text);
    }

    [Theory]
    [InlineData(13000, 90)]
    [InlineData(13020, 90)]
    [InlineData(12090, 88)]
    [InlineData(12060, 85)]
    [InlineData(12040, 84)]
    [InlineData(11080, 78)]
    [InlineData(11000, 70)]
    [InlineData(10020, 0)]
    public void PtxVersions_FollowTheDriver(int driver, int ptx) => Assert.Equal(ptx, PtxVersions.Of(driver));
}
