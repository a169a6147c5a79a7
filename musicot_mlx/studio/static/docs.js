// The API as a page, from /openapi.json: every route, what it takes and what it gives.

const element = (name, text = "", ...children) => {
  const made = document.createElement(name);
  made.textContent = text;
  made.append(...children);
  return made;
};

/** A schema as text: fields with their types, references followed once. */
function shown(schema, schemas, depth = 0) {
  if (!schema) return "anything";
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return depth > 2 ? name : shown(schemas[name], schemas, depth);
  }
  const either = schema.anyOf ?? schema.oneOf;
  if (either) return either.map((one) => shown(one, schemas, depth + 1)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((one) => JSON.stringify(one)).join(" | ");
  if (schema.type === "array") return `[${shown(schema.items, schemas, depth + 1)}, …]`;
  if (!schema.properties) return schema.type ?? "anything";
  const space = "  ".repeat(depth + 1);
  const required = new Set(schema.required ?? []);
  const fields = Object.entries(schema.properties).map(([name, field]) => {
    const mark = required.has(name) ? "" : "?";
    return `${space}${name}${mark}: ${shown(field, schemas, depth + 1)}`;
  });
  return `{\n${fields.join(",\n")}\n${"  ".repeat(depth)}}`;
}

function folded(title, text) {
  return element("details", "", element("summary", title), element("pre", text));
}

function route(method, path, about, schemas) {
  const id = `${method}-${path}`;
  const heading = element("h3", "", element("span", method.toUpperCase()), path);
  heading.id = id;
  const section = element("section", "", heading, element("p", about.description ?? about.summary));
  const rows = (about.parameters ?? []).map((one) =>
    element("tr", "", element("td", one.name), element("td", one.in),
      element("td", shown(one.schema, schemas)), element("td", one.description ?? "")));
  if (rows.length) section.append(element("table", "", ...rows));
  for (const [kind, body] of Object.entries(about.requestBody?.content ?? {})) {
    section.append(folded(`takes ${kind}`, shown(body.schema, schemas)));
  }
  for (const [status, answer] of Object.entries(about.responses)) {
    if (/^[45]/.test(status)) continue;
    for (const [kind, body] of Object.entries(answer.content ?? {})) {
      section.append(folded(`${status} gives ${kind}`, shown(body.schema, schemas)));
    }
  }
  return section;
}

const document_ = await (await fetch("/openapi.json")).json();
const schemas = document_.components.schemas;
const target = document.getElementById("routes");
const list = element("ul");
const groups = new Map();
for (const [path, methods] of Object.entries(document_.paths)) {
  for (const [method, about] of Object.entries(methods)) {
    const tag = about.tags?.[0] ?? "other";
    if (!groups.has(tag)) groups.set(tag, element("section", "", element("h2", tag)));
    groups.get(tag).append(route(method, path, about, schemas));
    const link = element("a", `${method.toUpperCase()} ${path}`);
    link.href = `#${method}-${path}`;
    list.append(element("li", "", link));
  }
}
document.getElementById("contents").replaceChildren(list);
target.replaceChildren(...groups.values());
