namespace Qwen.Runtime.Engine;

/// <summary>Something the loop's thread does between two steps.</summary>
internal abstract class LoopCommand
{
    public abstract void Run(EngineCore core);

    public abstract void Fail(Exception error);
}

/// <inheritdoc/>
internal sealed class LoopCommand<T>(Func<EngineCore, T> function) : LoopCommand
{
    private readonly TaskCompletionSource<T> _result = new(TaskCreationOptions.RunContinuationsAsynchronously);

    public Task<T> Task => _result.Task;

    public override void Run(EngineCore core)
    {
        try
        {
            _result.SetResult(function(core));
        }
#pragma warning disable CA1031 // It belongs to whoever waits for the command.
        catch (Exception error)
#pragma warning restore CA1031
        {
            _result.SetException(error);
        }
    }

    public override void Fail(Exception error) => _result.SetException(error);
}
