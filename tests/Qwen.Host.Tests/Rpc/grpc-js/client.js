// Calls every method of a server with the official JavaScript client; prints one JSON object. Usage: node client.js ADDRESS PROTO
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const [address, proto] = process.argv.slice(2);
const definition = loader.loadSync(proto, { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true });
const { Inference } = grpc.loadPackageDefinition(definition).qwen.v1;
const client = new Inference(address, grpc.credentials.createInsecure());

const unary = (method, request) => new Promise((resolve, reject) =>
  client[method](request, (error, reply) => (error ? reject(error) : resolve(reply))));

const stream = (method, request, { deadline, stopAfter, compress } = {}) => new Promise(resolve => {
  const metadata = new grpc.Metadata();
  const options = { ...(deadline ? { deadline: Date.now() + deadline } : {}) };
  const call = client[method](request, metadata, options);
  const pieces = [];
  call.on("data", piece => {
    pieces.push(piece);
    if (stopAfter && pieces.length === stopAfter) call.cancel();
  });
  call.on("error", () => { }); // the status says it
  call.on("status", status => resolve({ pieces, code: grpc.status[status.code], details: status.details, field: status.metadata.get("field")[0] ?? null }));
});

const text = answer => answer.pieces.map(p => p.text).join("");
const chat = { messages: [{ role: "user", content: "What is 12 + 30?" }], sampling: { temperature: 0, max_tokens: 16 } };
const endless = { text: "Tell me a story.", sampling: { ignore_eos: true, max_tokens: 100000 } };

const answer = await stream("Chat", chat);
const last = answer.pieces.at(-1);
const { ids, max_model_len } = await unary("Tokenize", { text: "Hello world" });
const expired = await stream("Generate", endless, { deadline: 300 });
const cancelled = await stream("Generate", endless, { stopAfter: 3 });
const invalid = await stream("Generate", { text: "x", sampling: { temperature: -1 } });
const unknown = await stream("Generate", { model: "other", text: "x" });
const huge = await stream("Generate", { text: "x".repeat(4 << 20) });
console.log(JSON.stringify({
  answer: text(answer), code: answer.code, reason: last.finish_reason, usage: last.usage,
  ids, max_model_len, detokenized: (await unary("Detokenize", { ids })).text,
  models: (await unary("Models", {})).models,
  expired: expired.code, cancelled: cancelled.code,
  invalid: { code: invalid.code, details: invalid.details },
  unknown: { code: unknown.code, field: unknown.field },
  huge: huge.code,
}));
client.close();
