// Markdown as models write it, built as DOM nodes: text only ever becomes text, so nothing in an answer is run or loaded.

const element = (name, ...children) => {
  const node = document.createElement(name);
  node.append(...children);
  return node;
};

/** `code`, **bold**, *italic*, ~~struck~~ and [links](https://...), as nodes. */
function inline(text) {
  const nodes = [];
  const pattern = /(`+)(.+?)\1|\*\*(?=\S)(.+?)\*\*|\*(?=\S)([^*]+?)\*|~~(?=\S)(.+?)~~|\[([^\]]*)\]\((https?:\/\/[^\s)]+)\)/gs;
  let from = 0;
  for (const match of text.matchAll(pattern)) {
    nodes.push(text.slice(from, match.index));
    from = match.index + match[0].length;
    const [, , code, bold, italic, struck, label, address] = match;
    if (code !== undefined) nodes.push(element("code", code));
    else if (bold !== undefined) nodes.push(element("strong", ...inline(bold)));
    else if (italic !== undefined) nodes.push(element("em", ...inline(italic)));
    else if (struck !== undefined) nodes.push(element("s", ...inline(struck)));
    else {
      const link = element("a", label || address);
      link.href = address; // http or https, by the pattern
      link.rel = "noreferrer noopener";
      link.target = "_blank";
      nodes.push(link);
    }
  }
  nodes.push(text.slice(from));
  return nodes.filter(n => n !== "");
}

function codeBlock(language, code) {
  const copy = element("button", "Copy");
  copy.type = "button";
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code);
    copy.textContent = "Copied";
  });
  return element("figure", element("figcaption", element("span", language), copy), element("pre", element("code", code)));
}

const isRule = line => /^ {0,3}([-*_])( *\1){2,} *$/.test(line);
const fence = /^ {0,3}(```+|~~~+) *([^`]*)$/;
const heading = /^ {0,3}(#{1,6}) +(.*?)#* *$/;
const item = /^( *)([-*+]|\d{1,9}[.)]) +(.*)$/;
const startsBlock = line => fence.test(line) || heading.test(line) || item.test(line) || /^ {0,3}>/.test(line) || isRule(line);
const cells = line => line.trim().replace(/^\||\|$/g, "").split("|").map(c => c.trim());

function table(lines, i) {
  const row = (name, line) => element("tr", ...cells(line).map(c => element(name, ...inline(c))));
  const head = element("thead", row("th", lines[i]));
  const body = element("tbody");
  for (i += 2; i < lines.length && lines[i].includes("|"); i++) body.append(row("td", lines[i]));
  return [element("table", head, body), i];
}

function list(lines, i) {
  const [, indent, marker] = item.exec(lines[i]);
  const isOrdered = /\d/.test(marker);
  const node = element(isOrdered ? "ol" : "ul");
  if (isOrdered) node.start = parseInt(marker, 10);
  while (i < lines.length) {
    const match = item.exec(lines[i]);
    if (!match || match[1].length !== indent.length || /\d/.test(match[2]) !== isOrdered) break;
    const inner = [match[3]];
    for (i++; i < lines.length; i++) {
      const deeper = lines[i].startsWith(" ".repeat(indent.length + 2)) || lines[i].startsWith("\t");
      const blank = lines[i].trim() === "" && (lines[i + 1] ?? "").startsWith(" ".repeat(indent.length + 2));
      if (!deeper && !blank) break;
      inner.push(lines[i].slice(Math.min(indent.length + match[2].length + 1, lines[i].length - lines[i].trimStart().length)));
    }
    const content = blocks(inner);
    node.append(element("li", ...(content.length === 1 && content[0].localName === "p" ? content[0].childNodes : content)));
    while (i < lines.length && lines[i].trim() === "" && item.exec(lines[i + 1] ?? "")?.[1].length === indent.length) i++;
  }
  return [node, i];
}

function blocks(lines) {
  const nodes = [];
  for (let i = 0; i < lines.length;) {
    const line = lines[i];
    let match;
    if (line.trim() === "") {
      i++;
    } else if ((match = fence.exec(line))) {
      const code = [];
      const close = match[1];
      for (i++; i < lines.length && !(lines[i].trim().startsWith(close) && lines[i].trim() === lines[i].trim()[0].repeat(lines[i].trim().length)); i++) code.push(lines[i]);
      i++; // the closing fence; a stream may not have it yet
      nodes.push(codeBlock(match[2].trim(), code.join("\n")));
    } else if ((match = heading.exec(line))) {
      nodes.push(element("h" + Math.min(match[1].length + 2, 6), ...inline(match[2])));
      i++;
    } else if (isRule(line)) {
      nodes.push(element("hr"));
      i++;
    } else if (/^ {0,3}>/.test(line)) {
      const quoted = [];
      for (; i < lines.length && /^ {0,3}>/.test(lines[i]); i++) quoted.push(lines[i].replace(/^ {0,3}> ?/, ""));
      nodes.push(element("blockquote", ...blocks(quoted)));
    } else if (item.test(line)) {
      const [node, next] = list(lines, i);
      nodes.push(node);
      i = next;
    } else if (line.includes("|") && /^[\s|:-]*-[\s|:-]*$/.test(lines[i + 1] ?? "") && lines[i + 1].includes("|")) {
      const [node, next] = table(lines, i);
      nodes.push(node);
      i = next;
    } else {
      const paragraph = [line];
      for (i++; i < lines.length && lines[i].trim() !== "" && !startsBlock(lines[i]); i++) paragraph.push(lines[i]);
      nodes.push(element("p", ...inline(paragraph.join("\n"))));
    }
  }
  return nodes;
}

/** The nodes of a text. */
export const render = text => blocks(text.split("\n"));
