using Qwen.Runtime.Engine;
using Qwen.Runtime.Sampling;

namespace Qwen.Host.Http;

/// <summary>Runs the prompts of a request and sends what the engine answers, whole or as it comes.</summary>
/// <param name="engine">What answers.</param>
/// <param name="options">Name and bounds.</param>
/// <param name="logger">For faults of ours.</param>
/// <param name="stopping">The server stops: ends what still runs.</param>
internal sealed class Responder(QwenEngine engine, ServerOptions options, ILogger logger, CancellationToken stopping)
{
    public QwenEngine Engine => engine;

    public string ModelName => options.ModelName;

    /// <summary>The fields that say how a request is treated.</summary>
    public RequestOptions ReadTreatment(HttpContext context, RequestFields fields) => TreatmentFields.Read(fields, context.TraceIdentifier, options.RequestTimeout);

    /// <summary>Checks the model that a request names; one that names none gets the one that is served.</summary>
    public void CheckModel(RequestFields fields)
    {
        if (fields.String("model") is { } name && name != ModelName)
            throw ModelsEndpoint.NotServed(name, ModelName);
    }

    /// <summary>Answers the request.</summary>
    /// <param name="context">The request.</param>
    /// <param name="fields">Its body.</param>
    /// <param name="prompts">Each gets its answers.</param>
    /// <param name="promptField">The field that the prompts came from, for errors.</param>
    /// <param name="sampling">How to answer.</param>
    /// <param name="format">How to write it.</param>
    /// <param name="stream">As it comes.</param>
    public async Task RespondAsync(HttpContext context, RequestFields fields, IReadOnlyList<IReadOnlyList<int>> prompts, string promptField, SamplingOptions sampling, AnswerFormat format, bool stream)
    {
        var used = new RequestUsage();
        context.Features.Set(used);
        Answers answers = await Answers.StartAsync(engine, prompts, sampling, ReadTreatment(context, fields), promptField, context.RequestAborted, stopping).ConfigureAwait(false);
        await using (answers.ConfigureAwait(false))
        {
            try
            {
                await (stream ? StreamAsync(context, answers, format) : WriteAsync(context, answers, format)).ConfigureAwait(false);
            }
            finally
            {
                used.Usage = answers.Usage;
            }
        }
    }

    private static async Task WriteAsync(HttpContext context, Answers answers, AnswerFormat format)
    {
        WholeAnswer[] whole = [.. Enumerable.Range(0, answers.Count).Select(_ => new WholeAnswer())];
        while (await answers.NextAsync().ConfigureAwait(false) is var (index, chunk))
            whole[index].Add(chunk);
        await JsonResponse.WriteAsync(context, StatusCodes.Status200OK, json => format.WriteWhole(json, whole, answers.Usage)).ConfigureAwait(false);
    }

    private async Task StreamAsync(HttpContext context, Answers answers, AnswerFormat format)
    {
        var events = new EventStream(context);
        await events.StartAsync().ConfigureAwait(false);
        try
        {
            for (int i = 0; i < answers.Count; i++)
            {
                if (format.HasOpening(i))
                    await events.SendAsync(json => format.WriteOpening(json, i)).ConfigureAwait(false);
            }

            while (await answers.NextAsync().ConfigureAwait(false) is var (index, chunk))
            {
                if (format.Take(index, chunk))
                    await events.SendAsync(json => format.WritePiece(json, index, chunk)).ConfigureAwait(false);
            }

            if (format.IncludeUsage)
                await events.SendAsync(json => format.WriteUsagePiece(json, answers.Usage)).ConfigureAwait(false);
        }
        catch (Exception e) when (!context.RequestAborted.IsCancellationRequested)
        {
            // The status is sent already; the error can only be an event.
            await events.SendAsync(ErrorHandling.Translate(e, logger).Write).ConfigureAwait(false);
        }

        await events.EndAsync().ConfigureAwait(false);
    }
}
