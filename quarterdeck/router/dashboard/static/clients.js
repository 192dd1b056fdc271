// The client keys: who may call, what a day may cost, and what it cost so far.

import { get, post, put, remove } from "./api.js";
import { FormDialog, ask, notice, telling } from "./dialog.js";
import { attribute, button, el, find, findAll, say } from "./dom.js";
import { money, number } from "./format.js";
import { Panel, badges, text, twoLines } from "./panel.js";
import { sign } from "./state.js";

const panel = new Panel("clients-panel", {
  load: () => get("clients"),
  keyOf: (client) => client.id,
  rowClass: (client) => (client.enabled ? "" : "is-off"),
  columns: [
    text((client) => client.name, "strong"),
    text((client) => client.agent || "–"),
    { is: "plain", show: (cell, client) => showHint(cell, client.key_hint) },
    badges((client) => [standing(client)]),
    text((client) => number(client.requests_today), "number"),
    twoLines((client) => number(client.tokens_today), (client) => limit(client.tokens_per_day, number), "number"),
    twoLines((client) => money(client.cost_today, 4), (client) => limit(client.cost_per_day, (most) => money(most, 2)), "number"),
    { is: "actions-cell", show: showActions },
  ],
});

export const page = {
  id: "clients",
  onSnapshot() {
    panel.follow(sign());
  },
  forget: () => panel.forget(),
};

const limit = (most, write) => (most === null || most === undefined ? "no limit" : `of ${write(most)}`);

function standing(client) {
  if (!client.enabled) return ["disabled", "disabled"];
  const isSpent = (used, most) => most !== null && most !== undefined && used >= most;
  const stopped = isSpent(client.tokens_today, client.tokens_per_day) || isSpent(client.cost_today, client.cost_per_day);
  return stopped ? ["budget used up", "cooling"] : ["enabled", "healthy"];
}

function showHint(cell, hint) {
  if (!cell.firstChild) cell.append(el("code"));
  say(cell.firstChild, hint ?? "");
}

function showActions(cell, client) {
  cell.client = client;
  if (!cell.firstChild) {
    cell.append(
      el(
        "div",
        { class: "row-actions" },
        button("Edit", () => openEdit(cell.client), { class: "small" }),
        button("Disable", () => toggle(cell.client), { class: "small" }),
        button("New key", () => askNewKey(cell.client), { class: "small" }),
        button("Del", () => askDelete(cell.client), { class: "small warns" }),
      ),
    );
  }
  const [edit, switched, renewed, del] = findAll("button", cell);
  say(switched, client.enabled ? "Disable" : "Enable");
  attribute(edit, "aria-label", `Edit ${client.name}`);
  attribute(switched, "aria-label", `${client.enabled ? "Disable" : "Enable"} ${client.name}`);
  attribute(renewed, "aria-label", `New key for ${client.name}`);
  attribute(del, "aria-label", `Delete ${client.name}`);
}

async function toggle(client) {
  const said = client.enabled ? "is disabled: its key opens nothing now." : "is enabled.";
  await telling(`${client.name} ${said}`, () => put(`clients/${client.id}`, { enabled: !client.enabled }));
  await panel.refresh();
}

function askNewKey(client) {
  ask({
    title: `New key for ${client.name}?`,
    text: "The present key stops working at once.",
    yes: "Make a new key",
    async act() {
      const renewed = await post(`clients/${client.id}/key`);
      setTimeout(() => showKey(client.name, renewed.key));
      await panel.refresh();
    },
  });
}

function askDelete(client) {
  ask({
    title: `Delete ${client.name}?`,
    text: "Its key stops working at once. What it used stays in the statistics.",
    yes: "Delete",
    async act() {
      await remove(`clients/${client.id}`);
      notice(`${client.name} was deleted.`);
      await panel.refresh();
    },
  });
}

// The form. Its fields are called like the API's, with a word before, since names must differ in a page.

const FIELDS = { name: "client_name", agent: "client_agent", tokens_per_day: "client_tokens", cost_per_day: "client_cost" };

let edited = null;
const form = new FormDialog("client-dialog", save);
const { fields } = form;

for (const opener of findAll("[data-add-client]")) {
  opener.addEventListener("click", () => show({ name: "", agent: "", enabled: true }, "Create client key"));
}

const openEdit = (client) => show(client, `Edit ${client.name}`);

function show(client, title) {
  edited = client.id ?? null;
  for (const [name, field] of Object.entries(FIELDS)) fields.fill(field, client[name]);
  fields.fill("client_enabled", client.enabled ? "yes" : "no");
  form.open(title);
}

async function save() {
  const body = read();
  if (!body) return false;
  try {
    await send(body);
  } catch (error) {
    error.fields = Object.fromEntries(Object.entries(error.fields ?? {}).map(([name, said]) => [FIELDS[name] ?? name, said]));
    throw error;
  }
  await panel.refresh();
  return true;
}

async function send(body) {
  if (edited) {
    await put(`clients/${edited}`, body);
    notice(`${body.name} was saved.`);
  } else {
    const made = await post("clients", body);
    setTimeout(() => showKey(made.name, made.key)); // after the form has closed
  }
}

function read() {
  const body = { name: fields.value("client_name"), agent: fields.value("client_agent"), enabled: fields.value("client_enabled") === "yes" };
  body.tokens_per_day = budget("client_tokens");
  body.cost_per_day = budget("client_cost");
  if (!body.name) fields.wrong("client_name", "Give it a name.");
  if (body.tokens_per_day !== null && !Number.isInteger(body.tokens_per_day)) fields.wrong("client_tokens", "A whole number, or nothing.");
  if (Number.isNaN(body.cost_per_day)) fields.wrong("client_cost", "An amount in dollars, or nothing.");
  return find("[aria-invalid]", fields.form) ? null : body;
}

/** null: no limit; NaN: no number. */
function budget(name) {
  const control = fields.control(name);
  if (control.validity.badInput) return NaN;
  if (control.value === "") return null;
  return Number(control.value) >= 0 ? Number(control.value) : NaN;
}

// The key, once.

const keyDialog = document.getElementById("key-dialog");
const shownKey = document.getElementById("shown-key");

function showKey(name, key) {
  say(document.getElementById("key-lead"), `This is the key of ${name}. Store it now: it is shown only this once.`);
  say(shownKey, key);
  say(document.getElementById("copy-key"), "Copy");
  keyDialog.showModal();
  document.getElementById("copy-key").focus();
}

keyDialog.addEventListener("close", () => say(shownKey, ""));
document.getElementById("copy-key").addEventListener("click", async (event) => {
  try {
    await navigator.clipboard.writeText(shownKey.textContent);
    say(event.target, "Copied");
  } catch {
    getSelection().selectAllChildren(shownKey);
    say(event.target, "Press Ctrl+C");
  }
});
