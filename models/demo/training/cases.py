"""Writes ../evaluation.jsonl: the held-out cases that the demo model is scored on. usage: python3 cases.py [N per skill]"""
import json, os, random, sys
import corpus

N = int(sys.argv[1]) if len(sys.argv) > 1 else 60
rng = random.Random(99)
cases = []

def add(skill, messages, tools, expected):
    rendered = "".join(t for t, _ in corpus.render(messages, tools, corpus.SYSTEM)) + "<|im_start|>assistant\n"
    record = {"skill": skill, "messages": [{"role": "system", "content": corpus.SYSTEM}] + [{"role": r, "content": c} for r, c in messages]}
    if tools: record["tools"] = [corpus.tool_spec(n) for n in tools]
    cases.append(record | {"expected": expected, "rendered": rendered})

# The order of the draws is evaluate.py's, so the cases are the same.
for skill, make in corpus.SKILLS.items():
    if skill == "story": continue
    for _ in range(N):
        question, answer = make(rng, "held")
        add(skill, [("user", question)], None, answer)
for _ in range(N):
    turns = corpus.recall(rng, "held"); add("recall", turns[:-1], None, turns[-1][1])
    turns = corpus.needle(rng, "held"); add("needle", turns[:-1], None, turns[-1][1])
    turns, tools = corpus.tool(rng, "held"); add("tool", turns[:1], tools, turns[1][1])
    if len(turns) > 2: add("tool answer", turns[:3], tools, turns[3][1])
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "evaluation.jsonl"), "w", encoding="utf-8") as out:
    for case in cases: out.write(json.dumps(case, ensure_ascii=False) + "\n")
