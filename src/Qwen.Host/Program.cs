using System.Text;
using Qwen.Host;

// UTF-8 whatever the locale says. A terminal's reader edits lines, so it stays; a pipe's would decode by the locale.
Console.OutputEncoding = new UTF8Encoding(encoderShouldEmitUTF8Identifier: false);
TextReader input = Console.IsInputRedirected ? new StreamReader(Console.OpenStandardInput(), Encoding.UTF8) : Console.In;
return await CommandLine.RunAsync(args, new Streams(input, Console.Out, Console.Error, !Console.IsErrorRedirected)).ConfigureAwait(false);
