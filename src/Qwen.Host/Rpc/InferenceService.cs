using Grpc.Core;
using Qwen.Host.Http;
using Qwen.Runtime.Engine;
using Qwen.Runtime.Tokenization;

namespace Qwen.Host.Rpc;

/// <summary>The gRPC service <c>qwen.v1.Inference</c> over an engine.</summary>
/// <param name="engine">What answers.</param>
/// <param name="options">The model's name, and bounds.</param>
/// <param name="application">Says when it stops.</param>
internal sealed class InferenceService(QwenEngine engine, ServerOptions options, IHostApplicationLifetime application) : Inference.InferenceBase
{
    public override Task Generate(GenerateRequest request, IServerStreamWriter<GenerateResponse> responseStream, ServerCallContext context)
    {
        CheckModel(request.Model);
        IReadOnlyList<int> prompt = request.PromptCase switch
        {
            GenerateRequest.PromptOneofCase.Text => Encode(request.Text, request.ParseSpecial),
            GenerateRequest.PromptOneofCase.Tokens => [.. request.Tokens.Ids],
            _ => throw ApiException.Invalid("prompt: is missing; give text or tokens.", "prompt"),
        };
        return AnswerAsync(prompt, request.Sampling, request.Treatment, responseStream, context);
    }

    public override Task Chat(ChatRequest request, IServerStreamWriter<GenerateResponse> responseStream, ServerCallContext context)
    {
        CheckModel(request.Model);
        return AnswerAsync(engine.EncodeChat(ChatMessages.Read(request)), request.Sampling, request.Treatment, responseStream, context);
    }

    public override Task<TokenizeResponse> Tokenize(TokenizeRequest request, ServerCallContext context)
    {
        CheckModel(request.Model);
        IReadOnlyList<int> ids = request.InputCase switch
        {
            TokenizeRequest.InputOneofCase.Text => Encode(request.Text, request.ParseSpecial),
            TokenizeRequest.InputOneofCase.Chat => engine.EncodeChat(ChatMessages.Read(request.Chat)),
            _ => throw ApiException.Invalid("input: is missing; give text or chat.", "input"),
        };
        return Task.FromResult(new TokenizeResponse { Ids = { ids }, MaxModelLen = engine.Model.MaxModelLength });
    }

    public override Task<DetokenizeResponse> Detokenize(DetokenizeRequest request, ServerCallContext context)
    {
        CheckModel(request.Model);
        QwenTokenizer tokenizer = engine.Model.Tokenizer;
        for (int i = 0; i < request.Ids.Count; i++)
        {
            if ((uint)request.Ids[i] >= (uint)tokenizer.VocabularySize)
                throw ApiException.Invalid($"ids[{i}]: token {request.Ids[i]} is outside the vocabulary of {tokenizer.VocabularySize}.", "ids");
        }

        return Task.FromResult(new DetokenizeResponse { Text = tokenizer.Decode(request.Ids) });
    }

    public override Task<ModelsResponse> Models(ModelsRequest request, ServerCallContext context) => Task.FromResult(new ModelsResponse
    {
        Models = { new Model { Id = options.ModelName, MaxModelLen = engine.Model.MaxModelLength, VocabularySize = engine.Model.Tokenizer.VocabularySize } },
    });

    private async Task AnswerAsync(IReadOnlyList<int> prompt, Sampling? sampling, Treatment? treatment, IServerStreamWriter<GenerateResponse> responses, ServerCallContext context)
    {
        // The token is cancelled by the caller, by its deadline and by a lost connection. A slow reader is waited for in WriteAsync.
        using var end = CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken, application.ApplicationStopping);
        var request = new RequestOptions
        {
            Priority = treatment?.Priority ?? 0,
            CacheSalt = treatment?.CacheSalt is { Length: > 0 } salt ? salt : null,
            Timeout = options.RequestTimeout,
            Id = context.GetHttpContext().TraceIdentifier,
        };
        await foreach (GenerationChunk chunk in engine.GenerateAsync(prompt, SamplingMessage.Read(sampling ?? new Sampling()), request, end.Token).ConfigureAwait(false))
        {
            context.GetHttpContext().Features.Set(new RequestUsage { Usage = chunk.Usage });
            await responses.WriteAsync(GenerateMessage.From(chunk, prompt), context.CancellationToken).ConfigureAwait(false);
        }
    }

    private IReadOnlyList<int> Encode(string text, bool parseSpecial) =>
        engine.Model.Tokenizer.EncodeToIds(text, parseSpecial ? AddedTokenParsing.All : AddedTokenParsing.UserDefined);

    private void CheckModel(string name)
    {
        if (name.Length > 0 && name != options.ModelName)
            throw ModelsEndpoint.NotServed(name, options.ModelName);
    }
}
