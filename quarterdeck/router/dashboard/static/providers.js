// The providers: a live table, what holds each of them back, and the form.

import { get, post, put, remove } from "./api.js";
import { FormDialog, ask, notice, telling } from "./dialog.js";
import { attribute, button, el, find, findAll, hide, keyed, mark, say, svg } from "./dom.js";
import { counted, number } from "./format.js";
import { Fault, parse } from "./json.js";
import { Panel, badges, text } from "./panel.js";
import { backends, canBeReset, condition, needsAttention, reason, standing } from "./state.js";

const DEFAULTS = {
  name: "", label: "", api_base_url: "", api: "openai-completions", key_connection: "",
  pool: "primary", rpm_limit: "", timeout_seconds: "", enabled: true, model_mappings: {},
};
const RANGES = { rpm_limit: [1, 1000], timeout_seconds: [10, 600] };
const EXAMPLE = '{\n  "gpt-5-mini": {"native_id": "openai/gpt-5-mini"}\n}';

const panel = new Panel("providers-panel", {
  keyOf: (row) => row.key,
  rowClass: (row) => (row.backend.enabled ? "" : "is-off"),
  columns: [
    text((row) => row.backend.name, "strong"),
    text((row) => (row.backend.is_built_in ? "answers until there is a provider" : row.backend.label || "–")),
    badges((row) => [[row.backend.pool, row.backend.pool]]),
    badges((row) => standing(row.backend)),
    { is: "plain", show: showLimit },
    text((row) => number(row.backend.model_count), "number"),
    { is: "actions-cell", show: showActions },
  ],
});

export const page = {
  id: "providers",
  onSnapshot() {
    panel.show(backends().flatMap(rows));
  },
};

function rows(backend) {
  const row = { key: backend.id, backend };
  if (!needsAttention(backend)) return [row];
  return [row, { key: `${backend.id} condition`, whole: (cell) => showCondition(cell, backend) }];
}

function showLimit(cell, { backend }) {
  const used = backend.rate_limiter?.utilization ?? 0;
  if (!cell.firstChild) {
    const bar = svg("svg", { "aria-hidden": "true", preserveAspectRatio: "none", viewBox: "0 0 1 1" }, svg("rect", { height: 1 }));
    cell.append(el("div", { class: "usage-bar" }, el("span"), bar));
  }
  say(find("span", cell), `${number(backend.rpm_limit)} · ${(used * 100).toFixed(0)}% used`);
  attribute(find("rect", cell), "width", used);
  mark(find(".usage-bar", cell), "is-high", used > 0.8);
}

function showActions(cell, { backend }) {
  if (backend.is_built_in) return;
  cell.backend = backend;
  if (cell.firstChild) return nameActions(cell);
  const edit = button("Edit", () => openEdit(cell.backend), { class: "small" });
  const del = button("Del", () => askDelete(cell.backend), { class: "small warns" });
  cell.append(el("div", { class: "row-actions" }, edit, del));
  nameActions(cell);
}

function nameActions(cell) {
  const [edit, del] = findAll("button", cell);
  attribute(edit, "aria-label", `Edit ${cell.backend.name}`);
  attribute(del, "aria-label", `Delete ${cell.backend.name}`);
}

function showCondition(cell, backend) {
  cell.backend = backend;
  if (!cell.firstChild) {
    const reset = button("Reset", () => resetBackend(cell.backend), { class: "small" });
    cell.append(el("div", {}, el("p", { class: "why" }), el("dl"), el("div", { class: "reset" }, reset)));
  }
  attribute(cell.firstChild, "class", `condition is-${standing(backend)[0][1]}`);
  say(find(".why", cell), reason(backend));
  keyed(find("dl", cell), condition(backend), ([name]) => name, makeFact, changeFact);
  const reset = find("button", cell);
  hide(reset.parentElement, !canBeReset(backend));
  attribute(reset, "aria-label", `Reset ${backend.name}`);
}

const makeFact = ([name]) => el("div", {}, el("dt", {}, name), el("dd"));
const changeFact = (node, [, value]) => say(node.lastChild, value);

function resetBackend(backend) {
  return telling(`${backend.name} may be tried again.`, () => post(`backends/${backend.id}/reset`));
}

function askDelete(backend) {
  ask({
    title: `Delete ${backend.name}?`,
    text: "No call goes there any more, and its key is forgotten. What it did stays in the statistics.",
    yes: "Delete",
    async act() {
      await remove(`backends/${backend.id}`);
      notice(`${backend.name} was deleted.`);
    },
  });
}

// The form.

let edited = null; // as it was read, when it is no new one
const form = new FormDialog("provider-dialog", save);
const { fields } = form;

for (const opener of findAll("[data-add-provider]")) {
  opener.addEventListener("click", () => openAdd(opener.dataset.addProvider || "primary"));
}
fields.control("model_mappings").placeholder = EXAMPLE;
fields.control("model_mappings").addEventListener("input", hintMappings);

function openAdd(pool) {
  edited = null;
  show({ ...DEFAULTS, pool }, "Add provider");
}

async function openEdit(backend) {
  try {
    edited = await get(`backends/${backend.id}`);
    show(edited, `Edit ${edited.name}`);
  } catch (error) {
    notice(`${backend.name} cannot be edited now: ${error.message}`, "error");
  }
}

function show(backend, title) {
  for (const name of Object.keys(DEFAULTS)) if (fields.byName.has(name)) fields.fill(name, backend[name]);
  fields.fill("api_key", "");
  fields.fill("enabled", backend.enabled ? "yes" : "no");
  fields.fill("model_mappings", written(backend.model_mappings));
  const hint = edited ? `Now: ${backend.api_key || "none here"}. Leave it empty to keep it.` : "";
  say(find(".hint", fields.byName.get("api_key")), hint);
  find(".required", fields.byName.get("api_key")).hidden = Boolean(edited);
  attribute(fields.control("api_key"), "aria-required", edited ? null : "true");
  form.open(title);
  hintMappings();
}

const written = (mappings) => (Object.keys(mappings ?? {}).length ? JSON.stringify(mappings, null, 2) : "");

async function save() {
  const body = read();
  if (!body) return false;
  const saved = edited ? await put(`backends/${edited.id}`, body) : await post("backends", body);
  notice(`${saved.name} was ${edited ? "saved" : "added"}.`);
  return true;
}

/** What the form says, or null after showing what is wrong with it. */
function read() {
  const wrong = [];
  const refuse = (name, message) => { wrong.push(name); fields.wrong(name, message); };
  const body = Object.fromEntries(["name", "label", "api_base_url", "api", "key_connection", "pool"].map((name) => [name, fields.value(name)]));
  if (!body.name) refuse("name", "Give it a name.");
  if (!isAddress(body.api_base_url)) refuse("api_base_url", "Give an address that begins with http:// or https://.");
  if (!body.api) body.api = DEFAULTS.api;
  body.api_key = fields.value("api_key");
  const hasKey = edited && !edited.key_connection;
  if (!hasKey && !body.api_key && !body.key_connection) refuse("api_key", "A provider needs its key, or the name of a connection that holds it.");
  if (body.api_key && body.key_connection === edited?.key_connection) delete body.key_connection; // the key takes its place
  for (const [name, [least, most]] of Object.entries(RANGES)) {
    if (!edited && !fields.value(name)) continue; // a new one has what the settings say
    body[name] = Number(fields.value(name) || NaN);
    if (!Number.isInteger(body[name]) || body[name] < least || body[name] > most) refuse(name, `A whole number from ${least} to ${most}.`);
  }
  body.enabled = fields.value("enabled") === "yes";
  try {
    body.model_mappings = mappings();
  } catch (error) {
    refuse("model_mappings", error.message);
    if (error instanceof Fault) putCaret(error.at);
  }
  return wrong.length ? null : body;
}

function isAddress(value) {
  return /^https?:\/\//i.test(value) && URL.canParse(value);
}

/** The mappings as an object. Raises an error that says where they are wrong. */
function mappings() {
  const raw = fields.control("model_mappings").value;
  if (!raw.trim()) return {};
  const found = parse(raw);
  if (!isObject(found)) throw new Error("The whole must be an object: {\"model name\": {\"native_id\": \"…\"}}.");
  for (const [model, mapping] of Object.entries(found)) {
    if (!isObject(mapping)) throw new Error(`“${model}” must be an object with a native_id.`);
    if (typeof mapping.native_id !== "string" || !mapping.native_id.trim()) throw new Error(`“${model}” needs a native_id: the provider's own name of this model.`);
  }
  return found;
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function putCaret(at) {
  const raw = fields.control("model_mappings").value;
  fields.control("model_mappings").setSelectionRange(at, Math.min(at + 1, raw.length));
}

/** Says while typing how many models there are, or where the text is wrong. */
function hintMappings() {
  const hint = find(".hint", fields.byName.get("model_mappings"));
  try {
    const names = Object.keys(mappings());
    say(hint, names.length ? counted(names.length, "model") : "A JSON object: the name that clients use → {native_id, cost, …}. Prices are dollars per token.");
  } catch (error) {
    say(hint, error.message);
  }
}
