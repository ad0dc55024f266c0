using Microsoft.Extensions.AI;
using Microsoft.Extensions.DependencyInjection;

namespace Qwen.Runtime.Engine;

/// <summary>Registers the engine with a dependency injection container.</summary>
public static class QwenServiceCollectionExtensions
{
    /// <summary>Adds a <see cref="QwenEngine"/> and an <see cref="IChatClient"/> over it, one each, loaded when first asked for and disposed with the container.</summary>
    /// <param name="services">The container.</param>
    /// <param name="path">The model; null for the demo model.</param>
    /// <param name="options">How to load it; null for the defaults.</param>
    /// <remarks>Loading maps files and takes milliseconds to seconds on the thread that asks first. To load at start, ask for the engine there.</remarks>
    public static IServiceCollection AddQwen(this IServiceCollection services, string? path = null, EngineOptions? options = null)
    {
        services.AddSingleton(_ => QwenEngine.Load(path, options));
        services.AddSingleton<IChatClient>(provider => new QwenChatClient(provider.GetRequiredService<QwenEngine>()));
        return services;
    }
}
