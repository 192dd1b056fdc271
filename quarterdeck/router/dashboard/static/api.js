// The admin API: the token goes with every call, and every refusal becomes one kind of error.

const ROOT = new URL("../../api/admin/", import.meta.url);
const STREAM = new URL("../sse", import.meta.url);
const PLACE = "router-admin-token";
const PATIENCE_MS = 20_000;

export class Refused extends Error {
  /** `fields`: what is wrong, by name of the field; `status` 0: there was no answer. */
  constructor(message, status = 0, fields = {}) {
    super(message);
    this.status = status;
    this.fields = fields;
  }
}

let onUnauthorized = () => {};

export const token = {
  get: () => sessionStorage.getItem(PLACE) ?? "",
  set: (value) => sessionStorage.setItem(PLACE, value),
  forget: () => sessionStorage.removeItem(PLACE),
};

export function whenUnauthorized(act) {
  onUnauthorized = act;
}

export const get = (path, query = {}) => ask("GET", path, undefined, query);
export const post = (path, body = {}) => ask("POST", path, body);
export const put = (path, body) => ask("PUT", path, body);
export const remove = (path) => ask("DELETE", path);

async function ask(method, path, body, query = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) if (value !== "") url.searchParams.set(name, value);
  const answer = await send(url, {
    method,
    body: body === undefined ? undefined : JSON.stringify(body),
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  if (answer.ok) return answer.json();
  const refused = await refusal(answer);
  if (answer.status === 401) onUnauthorized(refused.message);
  throw refused;
}

/** The live stream's answer. Raises `Refused`. */
export async function openStream(signal) {
  const answer = await send(STREAM, { signal, headers: { Accept: "text/event-stream" } });
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function send(url, options) {
  try {
    const headers = { ...options.headers, Authorization: `Bearer ${token.get()}` };
    return await fetch(url, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error instanceof TypeError) throw new Refused("The router cannot be reached.");
    throw new Refused(`The router did not answer within ${PATIENCE_MS / 1000} seconds.`);
  }
}

async function refusal(answer) {
  const { detail, message } = await answer.json().catch(() => ({}));
  const said = detail ?? message;
  if (Array.isArray(said)) return ofFields(said, answer.status);
  const text = typeof said === "string" && said ? said : `The router answered ${answer.status}.`;
  return new Refused(text, answer.status);
}

/** A list of `{loc, msg}`, one for each field that is wrong. */
function ofFields(wrong, status) {
  const fields = {};
  for (const { loc = [], msg = "" } of wrong) {
    const [name, ...inside] = loc.filter((part) => part !== "body");
    const text = inside.length ? `${inside.join(".")}: ${msg}` : msg;
    fields[name] = fields[name] ? `${fields[name]}; ${text}` : text;
  }
  return new Refused(Object.entries(fields).map((entry) => entry.join(": ")).join("; "), status, fields);
}
