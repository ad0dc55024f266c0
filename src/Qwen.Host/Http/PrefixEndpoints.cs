using System.Buffers;
using System.Text.Json;
using Qwen.Runtime.Engine;

namespace Qwen.Host.Http;

/// <summary>
/// <c>/v1/prefixes</c>: prompts whose keys and values stay in the cache until they are deleted. They are pinned by a <c>prompt</c> or by
/// <c>messages</c>, and can be saved in the server's folder of prefixes and restored from it.
/// </summary>
internal sealed class PrefixEndpoints(Responder responder, string? directory)
{
    private const int MostNameCharacters = 128;
    private static readonly SearchValues<char> NameCharacters = SearchValues.Create("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");

    private PrefixStore Store => responder.Engine.Prefixes;

    public static void Map(WebApplication app, Responder responder, string? directory)
    {
        var endpoints = new PrefixEndpoints(responder, directory);
        app.MapGet("/v1/prefixes", endpoints.ListAsync);
        app.MapPost("/v1/prefixes", endpoints.PinAsync);
        app.MapPost("/v1/prefixes/restore", endpoints.RestoreAsync);
        app.MapPost("/v1/prefixes/{id}/save", endpoints.SaveAsync);
        app.MapDelete("/v1/prefixes/{id}", endpoints.DeleteAsync);
    }

    private Task ListAsync(HttpContext context) => JsonResponse.WriteAsync(context, StatusCodes.Status200OK, json =>
    {
        json.WriteString("object", "list");
        json.WriteStartArray("data");
        foreach (PinnedPrefix prefix in Store.List())
        {
            json.WriteStartObject();
            Write(json, prefix);
            json.WriteEndObject();
        }

        json.WriteEndArray();
    });

    private async Task PinAsync(HttpContext context)
    {
        RequestFields fields = await RequestFields.ReadBodyAsync(context.Request).ConfigureAwait(false);
        responder.CheckModel(fields);
        CheckCaching();
        (IReadOnlyList<int> prompt, string field) = Prompt(fields);
        RequestOptions treatment = responder.ReadTreatment(context, fields);
        await RespondAsync(context, () => Store.PinAsync(prompt, treatment, context.RequestAborted), field).ConfigureAwait(false);
    }

    private async Task RestoreAsync(HttpContext context)
    {
        RequestFields fields = await RequestFields.ReadBodyAsync(context.Request).ConfigureAwait(false);
        CheckCaching();
        string path = PathOf(fields);
        if (!File.Exists(path))
            throw new ApiException(StatusCodes.Status404NotFound, $"filename: there is no saved prefix '{Path.GetFileName(path)}'.", "filename", "prefix_not_found");
        try
        {
            await RespondAsync(context, () => Store.RestoreAsync(path), "filename").ConfigureAwait(false);
        }
        catch (InvalidDataException e)
        {
            // Where the folder lies is not for clients.
            throw ApiException.Invalid($"filename: {e.Message.Replace(path, Path.GetFileName(path), StringComparison.Ordinal)}", "filename", "invalid_prefix_file");
        }
    }

    private async Task SaveAsync(HttpContext context)
    {
        RequestFields fields = await RequestFields.ReadBodyAsync(context.Request).ConfigureAwait(false);
        string id = IdOf(context), path = PathOf(fields);
        try
        {
            await Store.SaveAsync(id, path).ConfigureAwait(false);
        }
        catch (KeyNotFoundException)
        {
            throw NotFound(id);
        }

        await JsonResponse.WriteAsync(context, StatusCodes.Status200OK, json =>
        {
            json.WriteString("id", id);
            json.WriteString("filename", Path.GetFileName(path));
            json.WriteNumber("bytes", new FileInfo(path).Length);
        }).ConfigureAwait(false);
    }

    private async Task DeleteAsync(HttpContext context)
    {
        string id = IdOf(context);
        if (!await Store.DeleteAsync(id).ConfigureAwait(false))
            throw NotFound(id);
        await JsonResponse.WriteAsync(context, StatusCodes.Status200OK, json =>
        {
            json.WriteString("id", id);
            json.WriteString("object", "prefix");
            json.WriteBoolean("deleted", true);
        }).ConfigureAwait(false);
    }

    private static async Task RespondAsync(HttpContext context, Func<Task<PinnedPrefix>> pin, string field)
    {
        PinnedPrefix prefix;
        try
        {
            prefix = await pin().ConfigureAwait(false);
        }
        catch (ArgumentException e)
        {
            throw ApiException.Of(e, field, isTooLong: false);
        }
        await JsonResponse.WriteAsync(context, StatusCodes.Status200OK, json => Write(json, prefix)).ConfigureAwait(false);
    }

    /// <summary>One prompt, or messages as the chat template writes them, by default without the opening of an answer.</summary>
    private (IReadOnlyList<int> Prompt, string Field) Prompt(RequestFields fields)
    {
        if (fields.Element("messages") is not null)
            return (responder.Engine.EncodeChat(ChatFields.Read(fields, opensAnswer: false)), "messages");
        IReadOnlyList<int>[] prompts = CompletionsEndpoint.Prompts(fields, responder.Engine.Model.Tokenizer);
        return prompts.Length == 1 ? (prompts[0], "prompt") : throw ApiException.Invalid($"prompt: holds {prompts.Length} prompts; a prefix is made of one.", "prompt");
    }

    private void CheckCaching()
    {
        if (!responder.Engine.Model.Options.EnablePrefixCaching)
            throw ApiException.Invalid("The server runs without prefix caching.", code: "prefix_caching_off");
    }

    /// <summary>A file in the server's folder: clients name files, never places.</summary>
    private string PathOf(RequestFields fields)
    {
        if (directory is null)
            throw ApiException.Invalid("The server has no folder for saved prefixes; start it with --prefix-dir.", code: "no_prefix_directory");
        string name = fields.String("filename") ?? throw fields.Missing("filename");
        return name.Length is > 0 and <= MostNameCharacters && name[0] != '.' && !name.AsSpan().ContainsAnyExcept(NameCharacters)
            ? Path.Combine(directory, name)
            : throw ApiException.Invalid($"filename: must have 1 to {MostNameCharacters} letters, digits, '-', '_' and '.', and not begin with '.'.", "filename", "invalid_value");
    }

    private static string IdOf(HttpContext context) => (string)context.GetRouteValue("id")!;

    private static ApiException NotFound(string id) => new(StatusCodes.Status404NotFound, $"There is no prefix '{id}'.", "id", "prefix_not_found");

    private static void Write(Utf8JsonWriter json, PinnedPrefix prefix)
    {
        json.WriteString("id", prefix.Id);
        json.WriteString("object", "prefix");
        json.WriteNumber("created", prefix.Created.ToUnixTimeSeconds());
        json.WriteNumber("tokens", prefix.Tokens);
        json.WriteNumber("cached_tokens", prefix.CachedTokens);
    }
}
