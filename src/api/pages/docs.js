// The API reference, made from /openapi.json while the page is open.
import { copyButton } from "./copy.js";
import { el, mediaExample, prose, resolve, row, tree, typeName } from "./schema.js";

const METHODS = ["get", "post", "put", "patch", "delete", "head", "options"];
const $ = (id) => document.getElementById(id);

const pretty = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));
const anchor = ({ method, path, operation }) =>
  operation.operationId ?? `${method}${path}`.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "");

/** All operations: `{method, path, operation, tag, parameters}`. */
function operationsOf(spec) {
  return Object.entries(spec.paths ?? {}).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => {
      const operation = item[method];
      const parameters = [...(item.parameters ?? []), ...(operation.parameters ?? [])].map((one) => resolve(spec, one));
      return { method, path, operation, parameters, tag: operation.tags?.[0] ?? "Other" };
    }),
  );
}

/** A word for the shell, in quotes when it needs them. */
const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

function sampleValue(spec, parameter) {
  const value = mediaExample(spec, parameter);
  return value === undefined || value === "" || value === null ? parameter.name.toUpperCase() : String(value);
}

/** A command that makes this call when pasted. */
export function curl(spec, { method, path, operation, parameters }) {
  let address = path;
  const query = [];
  const lines = [];
  for (const parameter of parameters) {
    if (parameter.in === "path") address = address.replace(`{${parameter.name}}`, sampleValue(spec, parameter));
    if (parameter.in === "query" && parameter.required) {
      query.push(`${parameter.name}=${encodeURIComponent(sampleValue(spec, parameter))}`);
    }
    if (parameter.in === "header" && parameter.required) lines.push(`-H ${quoted(`${parameter.name}: ${sampleValue(spec, parameter)}`)}`);
  }
  const security = operation.security ?? spec.security ?? [];
  // An empty entry means that the key may be left out.
  if (security.length > 0 && !security.some((entry) => Object.keys(entry).length === 0)) {
    lines.push(`-H "Authorization: Bearer $KEY"`);
  }
  const body = resolve(spec, operation.requestBody);
  const type = Object.keys(body.content ?? {}).find((name) => name.includes("json")) ?? Object.keys(body.content ?? {})[0];
  if (type) {
    lines.push(`-H ${quoted(`Content-Type: ${type}`)}`);
    const value = mediaExample(spec, body.content[type]);
    if (value !== undefined) lines.push(`-d ${quoted(typeof value === "string" ? value : JSON.stringify(value))}`);
  }
  const answers = Object.values(operation.responses ?? {}).map((answer) => resolve(spec, answer));
  const streams = answers.some((answer) => answer.content && Object.keys(answer.content).every((name) => name === "text/event-stream"));
  // With a body curl makes a POST by itself.
  const usual = method === (type ? "post" : "get");
  const start = `curl${streams ? " -N" : ""}${usual ? "" : ` -X ${method.toUpperCase()}`}`;
  const target = quoted(location.origin + address + (query.length > 0 ? `?${query.join("&")}` : ""));
  return [`${start} ${target}`, ...lines].join(" \\\n  ");
}

function codeBlock(text, label) {
  const pre = el("pre", "", text);
  pre.tabIndex = 0;
  const block = el("div", "copyable", pre);
  block.append(copyButton(() => text, label));
  return block;
}

function media(spec, content, label) {
  return Object.entries(content ?? {}).flatMap(([type, one]) => {
    const nodes = [el("p", "media", el("code", "", type), one.schema ? ` ${typeName(spec, one.schema)}` : "")];
    const fields = one.schema && tree(spec, one.schema);
    if (fields) nodes.push(fields);
    const value = mediaExample(spec, one);
    if (value !== undefined && value !== null && value !== "") {
      nodes.push(el("details", "example", el("summary", "", "Example"), codeBlock(pretty(value), `Copy the example of ${label}`)));
    }
    return nodes;
  });
}

function section(spec, one) {
  const { method, path, operation, parameters } = one;
  const id = anchor(one);
  const link = el("a", "anchor", el("span", `method ${method}`, method.toUpperCase()), " ", el("code", "", path));
  link.href = `#${id}`;
  const node = el("section", "operation", el("h3", "", link));
  node.id = id;
  if (operation.deprecated) node.append(el("p", "rules", "deprecated"));
  if (operation.summary) node.append(el("p", "summary", operation.summary));
  if (operation.description && operation.description !== operation.summary) node.append(prose(operation.description));
  node.append(codeBlock(curl(spec, one), `Copy the command for ${method.toUpperCase()} ${path}`));
  if (parameters.length > 0) {
    const rows = parameters.map((parameter) => {
      const schema = { ...resolve(spec, parameter.schema), description: parameter.description };
      const made = row(spec, parameter.name, schema, parameter.required);
      made.querySelector(".type").before(el("span", "place", `in ${parameter.in}`), " ");
      return made;
    });
    node.append(el("h4", "", "Parameters"), el("div", "rows", ...rows));
  }
  const body = resolve(spec, operation.requestBody);
  if (body.content) {
    node.append(el("h4", "", "Body"));
    if (body.description) node.append(prose(body.description));
    node.append(...media(spec, body.content, "the body"));
  }
  const answers = Object.entries(operation.responses ?? {});
  if (answers.length > 0) node.append(el("h4", "", "Answers"));
  for (const [status, value] of answers) {
    const answer = resolve(spec, value);
    const headers = Object.entries(answer.headers ?? {}).map(([name, header]) => {
      const plain = resolve(spec, header);
      return row(spec, name, { ...resolve(spec, plain.schema), description: plain.description }, plain.required);
    });
    const inside = [...(headers.length > 0 ? [el("div", "rows", ...headers)] : []), ...media(spec, answer.content, status)];
    const head = [el("span", `status s${status[0]}`, status), " ", answer.description ?? ""];
    if (inside.length === 0) node.append(el("p", "answer", ...head));
    else {
      const details = el("details", "answer", el("summary", "", ...head), ...inside);
      node.append(details);
    }
  }
  return node;
}

function render(spec) {
  const operations = operationsOf(spec);
  const described = new Map((spec.tags ?? []).map((tag) => [tag.name, tag.description]));
  const tags = [...new Set([...described.keys(), ...operations.map(({ tag }) => tag)])];
  const groups = [];
  for (const tag of tags) {
    const members = operations.filter((one) => one.tag === tag);
    if (members.length === 0) continue;
    const title = el("h2", "", tag);
    const content = el("section", "group", title);
    if (described.get(tag)) content.append(prose(described.get(tag)));
    const list = el("ul", "");
    const entries = members.map((one) => {
      const node = section(spec, one);
      content.append(node);
      const link = el("a", "", el("span", `method ${one.method}`, one.method.toUpperCase()), " ", el("span", "path", one.path));
      link.href = `#${anchor(one)}`;
      if (one.operation.summary) link.title = one.operation.summary;
      const item = el("li", "", link);
      list.append(item);
      const { summary = "", description = "" } = one.operation;
      const text = `${one.method} ${one.path} ${tag} ${summary} ${description} ${one.parameters.map(({ name }) => name).join(" ")}`;
      return { node, item, text: text.toLowerCase() };
    });
    $("operations").append(content);
    const side = el("div", "", el("p", "tag", tag), list);
    $("contents").append(side);
    groups.push({ content, side, entries });
  }
  return groups;
}

/** Leaves what has every word of the search. */
function search(groups, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const { content, side, entries } of groups) {
    let here = 0;
    for (const { node, item, text: own } of entries) {
      const fits = words.every((word) => own.includes(word));
      node.hidden = item.hidden = !fits;
      if (fits) here++;
    }
    content.hidden = side.hidden = here === 0;
    found += here;
  }
  $("state").hidden = words.length === 0;
  $("state").textContent = found === 0 ? "Nothing found." : `${found} found.`;
}

try {
  const answer = await fetch("/openapi.json", { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  const spec = await answer.json();
  const { title = "API reference", version = "", description = "" } = spec.info ?? {};
  $("title").textContent = title;
  if (version) $("title").append(" ", el("span", "version", version));
  if (description) $("about").append(prose(description));
  const source = el("a", "", "/openapi.json");
  source.href = "/openapi.json";
  $("about").append(el("p", "muted", "OpenAPI document: ", source));
  const groups = render(spec);
  $("state").hidden = true;
  $("search").addEventListener("input", () => search(groups, $("search").value));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, textarea, select");
    if (event.key === "/" && !typing) {
      event.preventDefault();
      $("search").focus();
    } else if (event.key === "Escape" && event.target === $("search")) {
      $("search").value = "";
      search(groups, "");
    }
  });
  // The browser looked for the anchor before it was there.
  document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
} catch (error) {
  const link = el("a", "", "/openapi.json");
  link.href = "/openapi.json";
  $("state").replaceChildren(`The reference could not be made: ${error.message}. The document itself is at `, link, ".");
  $("state").classList.add("failed");
}
