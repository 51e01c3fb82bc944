// JSON Schema, as OpenAPI 3.1 uses it: references, a schema as a readable tree, and an example made from it.

/** Levels that are shown and filled in; schemas may contain themselves. */
const DEPTH_MAX = 8;

export const el = (name, className, ...content) => {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...content);
  return node;
};

/** Text of the document: paragraphs, and code between backticks. Nothing else of Markdown, and never HTML. */
export function prose(text, className = "prose") {
  const inline = (part) => part.split(/(`[^`\n]+`)/).map((piece) =>
    /^`.+`$/.test(piece) ? el("code", "", piece.slice(1, -1)) : piece);
  const paragraphs = String(text ?? "").trim().split(/\n\s*\n/).filter(Boolean);
  return el("div", className, ...paragraphs.map((part) => el("p", "", ...inline(part))));
}

/** What `$ref` points to within the document; a broken reference is an empty schema. */
export function resolve(document, value) {
  let seen = 0;
  let found = value;
  while (found?.$ref && seen++ < 16) {
    const path = found.$ref.startsWith("#/") ? found.$ref.slice(2).split("/") : [];
    const { $ref, ...beside } = found;
    const target = path.reduce((at, step) => at?.[decodeURIComponent(step).replace(/~1/g, "/").replace(/~0/g, "~")], document);
    found = { ...(target ?? {}), ...beside, title: beside.title ?? target?.title ?? $ref.split("/").at(-1) };
  }
  return found ?? {};
}

/** One schema of the parts of `allOf`, so that its properties stand in one list. */
function merged(document, schema) {
  const plain = resolve(document, schema);
  if (!plain.allOf) return plain;
  const parts = plain.allOf.map((part) => merged(document, part));
  return {
    ...Object.assign({}, ...parts, plain),
    properties: Object.assign({}, ...parts.map((part) => part.properties), plain.properties),
    required: [...new Set(parts.flatMap((part) => part.required ?? []).concat(plain.required ?? []))],
  };
}

const isNull = (document, schema) => resolve(document, schema).type === "null";
const choices = (document, schema) => (schema.oneOf ?? schema.anyOf ?? []).filter((part) => !isNull(document, part));

/** The type in a few words: `string`, `array of File`, `integer or null`. */
export function typeName(document, schema, depth = 0) {
  const plain = merged(document, schema);
  const variants = choices(document, plain);
  if (variants.length > 0) {
    const names = [...new Set(variants.map((part) => typeName(document, part, depth + 1)))];
    const nullable = (plain.oneOf ?? plain.anyOf).length > variants.length;
    return [...names, ...(nullable ? ["null"] : [])].join(" or ");
  }
  const types = [plain.type ?? (plain.properties ? "object" : "const" in plain ? typeof plain.const : "any")].flat();
  const name = (type) => {
    if (type === "array") return plain.items && depth < DEPTH_MAX ? `array of ${typeName(document, plain.items, depth + 1)}` : "array";
    if (type === "object" && plain.title) return plain.title;
    return type === "string" && plain.format ? `string (${plain.format})` : type;
  };
  return types.map(name).join(" or ");
}

/** What else holds for a value, in a few words. */
function constraints(schema) {
  const shown = (value) => JSON.stringify(value);
  const rules = [];
  if (schema.enum) rules.push(`one of ${schema.enum.map(shown).join(", ")}`);
  if ("const" in schema) rules.push(`always ${shown(schema.const)}`);
  if (schema.default !== undefined) rules.push(`default ${shown(schema.default)}`);
  const bounds = [["minimum", "at least"], ["exclusiveMinimum", "more than"], ["maximum", "at most"],
    ["exclusiveMaximum", "less than"], ["minLength", "at least", "characters"], ["maxLength", "at most", "characters"],
    ["minItems", "at least", "items"], ["maxItems", "at most", "items"]];
  for (const [name, words, unit = ""] of bounds) {
    if (schema[name] !== undefined) rules.push(`${words} ${schema[name].toLocaleString("en")} ${unit}`.trim());
  }
  if (schema.pattern) rules.push(`pattern ${schema.pattern}`);
  if (schema.readOnly) rules.push("read only");
  if (schema.deprecated) rules.push("deprecated");
  return rules.join("; ");
}

/** One named value: name, type, rules, description, and what is inside it. */
export function row(document, name, schema, required, depth = 0, above = []) {
  const plain = merged(document, schema);
  const line = el("div", "row-head", el("code", "name", name), " ", el("span", "type", typeName(document, schema)));
  if (required) line.append(" ", el("span", "required", "required"));
  const node = el("div", "row", line);
  if (plain.description) node.append(prose(plain.description));
  const rules = constraints(plain);
  if (rules) node.append(el("p", "rules", rules));
  const inside = tree(document, plain, depth + 1, above);
  if (inside) {
    // Two levels are open; what is deeper is for those who ask.
    const details = el("details", "", el("summary", "", "Fields"), inside);
    details.open = depth < 1;
    node.append(details);
  }
  return node;
}

/** The fields of an object, of an array's items or of each choice; `null` where there is nothing inside. */
export function tree(document, schema, depth = 0, above = []) {
  const plain = merged(document, schema);
  const own = plain.title && plain.properties ? plain.title : "";
  if (depth > DEPTH_MAX || (own && above.includes(own))) return null;
  const path = own ? [...above, own] : above;
  const variants = choices(document, plain);
  if (variants.length > 0) {
    const parts = variants.map((part) => [part, tree(document, part, depth, path)]).filter(([, inside]) => inside);
    if (parts.length === 0) return null;
    if (parts.length === 1 && variants.length === 1) return parts[0][1];
    return el("div", "choices", ...parts.map(([part, inside]) =>
      el("div", "choice", el("p", "type", typeName(document, part)), inside)));
  }
  if (plain.items) return tree(document, plain.items, depth, path);
  const rows = Object.entries(plain.properties ?? {}).map(([name, value]) =>
    row(document, name, value, plain.required?.includes(name), depth, path));
  if (plain.additionalProperties && typeof plain.additionalProperties === "object") {
    rows.push(row(document, "any other name", plain.additionalProperties, false, depth, path));
  }
  return rows.length > 0 ? el("div", "rows", ...rows) : null;
}

/** A value that fits the schema: its own example, else one made of its parts. */
export function example(document, schema, depth = 0) {
  const plain = merged(document, schema);
  if (plain.example !== undefined) return plain.example;
  if (Array.isArray(plain.examples) && plain.examples.length > 0) return plain.examples[0];
  if ("const" in plain) return plain.const;
  if (plain.default !== undefined && plain.default !== null) return plain.default;
  if (plain.enum) return plain.enum[0];
  const variants = choices(document, plain);
  if (variants.length > 0) return example(document, variants[0], depth + 1);
  const type = [plain.type ?? (plain.properties ? "object" : "")].flat().find((name) => name !== "null");
  if (depth > DEPTH_MAX) return null;
  switch (type) {
    case "object": {
      const wanted = Object.entries(plain.properties ?? {}).filter(([name, value]) =>
        depth === 0 || plain.required?.includes(name) || merged(document, value).example !== undefined);
      return Object.fromEntries(wanted.map(([name, value]) => [name, example(document, value, depth + 1)]));
    }
    case "array":
      return plain.items ? [example(document, plain.items, depth + 1)] : [];
    case "string":
      return "";
    case "integer":
    case "number":
      return plain.minimum ?? 0;
    case "boolean":
      return false;
    default:
      return null;
  }
}

/** The example of a request or answer: written in the document, else made from its schema. */
export function mediaExample(document, media) {
  if (media.example !== undefined) return media.example;
  const first = resolve(document, Object.values(media.examples ?? {})[0]);
  if (first.value !== undefined) return first.value;
  return media.schema ? example(document, media.schema) : undefined;
}
