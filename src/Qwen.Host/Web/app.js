import { render } from "./markdown.js";

const $ = id => document.getElementById(id);
const stored = (name, otherwise) => JSON.parse(localStorage.getItem(name) ?? "null") ?? otherwise;
const store = (name, value) => localStorage.setItem(name, JSON.stringify(value));

const messages = stored("messages", []); // { role, content, reasoning, speed }
const settings = $("settings");
let running = null; // the AbortController of the answer that is coming

// ---- settings

for (const [name, value] of Object.entries(stored("settings", {}))) settings.elements[name].value = value;
settings.addEventListener("input", () => store("settings", Object.fromEntries([...new FormData(settings)].filter(([name]) => name !== "key"))));
settings.addEventListener("submit", e => e.preventDefault());
$("settings-toggle").addEventListener("click", () => {
  settings.hidden = !settings.hidden;
  $("settings-toggle").setAttribute("aria-expanded", String(!settings.hidden));
});

const theme = stored("theme", null);
if (theme) document.documentElement.dataset.theme = theme;
$("theme").addEventListener("click", () => {
  const isDark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = isDark ? "light" : "dark";
  store("theme", document.documentElement.dataset.theme);
});

const headers = () => {
  const key = settings.elements.key.value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
};

function requestBody() {
  const { system, key, ...fields } = Object.fromEntries(new FormData(settings));
  const sampling = Object.fromEntries(Object.entries(fields).filter(([, v]) => v !== "").map(([n, v]) => [n, Number(v)]));
  const history = messages.map(({ role, content }) => ({ role, content }));
  return { ...sampling, messages: system ? [{ role: "system", content: system }, ...history] : history, stream: true, stream_options: { include_usage: true } };
}

// ---- the conversation

function show(message) {
  const node = $("message").content.cloneNode(true).firstElementChild;
  node.classList.add(message.role);
  node.querySelector("h2").textContent = message.role === "user" ? "You" : "Qwen";
  $("conversation").append(node);
  fill(node, message);
  return node;
}

function fill(node, message) {
  const content = node.querySelector(".content");
  if (message.role === "user" || message.failed) content.textContent = message.content;
  else content.replaceChildren(...render(message.content));
  node.classList.toggle("failed", Boolean(message.failed));
  const reasoning = node.querySelector(".reasoning");
  reasoning.hidden = !message.reasoning;
  reasoning.querySelector("div").textContent = message.reasoning ?? "";
  node.querySelector(".speed").textContent = message.speed ?? "";
}

/** Only the last answer can be made anew. */
function markLast() {
  for (const button of document.querySelectorAll(".regenerate")) button.hidden = true;
  const last = $("conversation").lastElementChild;
  if (last?.classList.contains("assistant") && !running) last.querySelector(".regenerate").hidden = false;
}

function saveConversation() {
  store("messages", messages);
  markLast();
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ") || part === "data: [DONE]") continue;
      yield JSON.parse(part.slice(6));
    }
  }
}

async function answer() {
  const message = { role: "assistant", content: "", reasoning: "" };
  const node = show(message);
  running = new AbortController();
  setBusy(true);
  const start = performance.now();
  let first = 0, pieces = 0;
  const measure = tokens => {
    const seconds = (performance.now() - first) / 1000;
    const rate = tokens > 1 && seconds > 0 ? `, ${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
    return `${tokens} token${tokens === 1 ? "" : "s"}${rate}, first after ${Math.round(first - start)} ms`;
  };
  let frame = 0;
  const paint = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      const atEnd = innerHeight + scrollY >= document.body.scrollHeight - 80;
      fill(node, message);
      if (atEnd) scrollTo(0, document.body.scrollHeight);
    });
  };
  try {
    const response = await fetch("v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(requestBody()), signal: running.signal });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const delta = event.choices[0]?.delta;
      const piece = (delta?.content ?? "") + (delta?.reasoning_content ?? "");
      if (piece) {
        first ||= performance.now();
        pieces++;
        message.content += delta.content ?? "";
        message.reasoning += delta.reasoning_content ?? "";
      }
      if (delta?.tool_calls) message.content += "\n```json\n" + JSON.stringify(delta.tool_calls, null, 2) + "\n```\n";
      if (event.usage) message.speed = measure(event.usage.completion_tokens);
      else if (pieces) message.speed = measure(pieces);
      paint();
    }
  } catch (e) {
    if (e.name === "AbortError") {
      message.speed = `${message.speed ?? ""} (stopped)`;
    } else if (message.content) {
      $("status").textContent = e.message;
    } else {
      message.failed = true;
      message.content = e.message;
    }
  }
  cancelAnimationFrame(frame);
  running = null;
  fill(node, message);
  setBusy(false);
  if (message.failed) markLast();
  else {
    messages.push(message);
    saveConversation();
  }
  if (message.failed) node.querySelector(".regenerate").hidden = false;
  $("input").focus();
}

function setBusy(isBusy) {
  $("send").hidden = isBusy;
  $("stop").hidden = !isBusy;
  $("status").textContent = "";
  markLast();
}

function send() {
  const text = $("input").value.trim();
  if (!text || running) return;
  for (const failed of document.querySelectorAll("article.failed")) failed.remove();
  $("input").value = "";
  resize();
  messages.push({ role: "user", content: text });
  show(messages.at(-1));
  saveConversation();
  scrollTo(0, document.body.scrollHeight);
  answer();
}

const stop = () => running?.abort();
const resize = () => {
  $("input").style.height = "auto";
  $("input").style.height = `${$("input").scrollHeight + 2}px`;
};

$("composer").addEventListener("submit", e => { e.preventDefault(); send(); });
$("input").addEventListener("input", resize);
$("input").addEventListener("keydown", e => {
  if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); send(); }
});
addEventListener("keydown", e => { if (e.key === "Escape") stop(); });
$("stop").addEventListener("click", stop);
$("new").addEventListener("click", () => {
  stop();
  messages.length = 0;
  $("conversation").replaceChildren();
  saveConversation();
  $("input").focus();
});
$("conversation").addEventListener("click", e => {
  if (!e.target.matches(".regenerate") || running) return;
  $("conversation").lastElementChild.remove();
  if (messages.at(-1)?.role === "assistant") messages.pop();
  answer();
});

// ---- the gauges

/** The value of a metric in Prometheus' text, summed over its labels. */
function metric(text, name) {
  let sum = null;
  for (const line of text.split("\n")) {
    if (line.startsWith(name) && (line[name.length] === " " || line[name.length] === "{")) sum = (sum ?? 0) + Number(line.slice(line.lastIndexOf(" ") + 1));
  }
  return sum;
}

async function poll() {
  if (!document.hidden) {
    try {
      const response = await fetch("metrics", { headers: headers() });
      if (response.ok) {
        const text = await response.text();
        const used = metric(text, "vllm:kv_cache_usage_perc") ?? 0;
        $("running").textContent = metric(text, "vllm:num_requests_running") ?? "–";
        $("waiting").textContent = metric(text, "vllm:num_requests_waiting") ?? "–";
        $("kv").value = used;
        $("kv-text").textContent = `${(100 * used).toFixed(0)}%`;
      }
    } catch {
      $("running").textContent = "unreachable"; // the next poll tries again
    }
  }
  setTimeout(poll, 1000);
}

async function nameModel() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (response.ok) document.title = $("model").textContent = (await response.json()).data[0].id;
  } catch (e) {
    $("status").textContent = `The server can't be reached: ${e.message}`;
  }
}

for (const message of messages) show(message);
markLast();
scrollTo(0, document.body.scrollHeight);
nameModel();
poll();
