// llama.cpp, through the npm package node-llama-cpp (prebuilt, CPU only), on one GGUF: prints prefill and decode tokens/s as a JSON line.
// usage: node llama-cpp.mjs FOLDER MODEL.gguf THREADS PROMPT_TOKENS GENERATED_TOKENS REPEATS SEQUENCES
// FOLDER is where `npm i --ignore-scripts node-llama-cpp` was run.
import { pathToFileURL } from "node:url";
import { resolve } from "node:path";

const [, , folder, modelPath, ...numbers] = process.argv;
const [threads, promptTokens, generated, repeats, sequences] = numbers.map(Number);
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(resolve(folder, "node_modules/node-llama-cpp/dist/index.js")));

const llama = await getLlama({ gpu: false, build: "never", maxThreads: threads, logLevel: LlamaLogLevel.error });
const started = performance.now();
const model = await llama.loadModel({ modelPath, useMmap: true });
const context = await model.createContext({ contextSize: (promptTokens + generated + 64) * sequences, sequences, batchSize: 512, threads });
const loadMs = performance.now() - started;
const all = Array.from({ length: sequences }, () => context.getSequence());

let state = 12345;
const prompt = Array.from({ length: promptTokens }, () => (state = (state * 1103515245 + 12345) & 0x7fffffff) % 150000);

async function run() {
    for (const sequence of all)
        await sequence.clearHistory();
    const start = performance.now();
    await Promise.all(all.map(s => s.evaluateWithoutGeneratingNewTokens(prompt)));
    const prefill = performance.now() - start;

    let first = 0, tokens = 0;
    await Promise.all(all.map(async s => {
        let i = 0;
        for await (const _ of s.evaluate([100], { temperature: 0, yieldEogTokens: true })) {
            if (i++ === 0) { // not counted: it comes with a token of the prompt
                first ||= performance.now();
                continue;
            }
            tokens++;
            if (i > generated)
                break;
        }
    }));
    return { prefill: sequences * promptTokens / prefill * 1e3, decode: tokens / (performance.now() - first) * 1e3 };
}

await run();
const runs = [];
for (let i = 0; i < repeats; i++)
    runs.push(await run());
const median = values => values.sort((a, b) => a - b)[values.length >> 1];
console.log(JSON.stringify({ load_ms: loadMs, prefill_tokens_per_s: median(runs.map(r => r.prefill)), decode_tokens_per_s: median(runs.map(r => r.decode)) }));
process.exit(0);
