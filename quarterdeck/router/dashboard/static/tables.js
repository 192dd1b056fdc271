// The pages that are tables of the past: usage, cooldowns, requests.

import { get } from "./api.js";
import { attribute, el, find, keyed, say } from "./dom.js";
import { clock, day, fullHour, money, moment, number } from "./format.js";
import { Panel, badges, text, twoLines } from "./panel.js";
import { backends, nameOf, sign } from "./state.js";

const COOLDOWNS = 100;
const CALLS = 100;
const USAGE_HOURS = 72;
const USAGE_DAYS = 30;

const errors = {
  is: "number",
  show(cell, row) {
    const count = row.error_count ?? row.total_errors;
    say(cell, number(count));
    attribute(cell, "class", `number ${count > 0 ? "is-bad" : "is-good"}`);
  },
};

// Usage.

const chosen = document.getElementById("usage-backend");

const hourly = new Panel("hourly", {
  load: () => get("stats/hourly", { hours: USAGE_HOURS, backend_id: chosen.value }),
  keyOf: (row) => [row.hour_bucket, row.backend_id, row.model, row.pool].join(" "),
  columns: [
    text((row) => fullHour(row.hour_bucket), "time"),
    text(nameOf, "long"),
    text((row) => row.model, "long"),
    text((row) => number(row.request_count), "number"),
    errors,
    text((row) => number(row.total_tokens), "number"),
    text((row) => money(row.cost, 6), "number"),
    text((row) => number(row.avg_latency_ms), "number"),
  ],
});

const daily = new Panel("daily", {
  settles: 45_000, // days are summed up every half minute
  rests: 10_000,
  load: () => get("stats/daily", { days: USAGE_DAYS }),
  keyOf: (row) => `${row.date} ${row.pool}`,
  columns: [
    text((row) => row.date, "time"),
    badges((row) => [[row.pool, row.pool]]),
    text((row) => number(row.total_requests), "number"),
    errors,
    text((row) => number(row.total_tokens), "number"),
    text((row) => money(row.total_cost, 6), "number"),
    text((row) => number(row.unique_backends), "number"),
  ],
});

chosen.addEventListener("change", () => {
  hourly.forget();
  hourly.refresh();
});

export const usage = {
  id: "usage",
  onSnapshot() {
    keyed(chosen, backends(), (backend) => backend.id, (backend) => el("option", { value: backend.id }), (node, backend) => say(node, backend.name));
    hourly.follow(sign());
    daily.follow(sign());
  },
  forget() {
    hourly.forget();
    daily.forget();
  },
};

// Cooldowns.

const log = new Panel("cooldown-log", {
  load: () => get("stats/cooldown", { limit: COOLDOWNS }),
  keyOf: (event) => event.id,
  columns: [
    text((event) => moment(event.started_at), "time"),
    text(nameOf, "long"),
    text((event) => number(event.consecutive_count), "number"),
    text((event) => number(event.cooldown_seconds), "number"),
    text((event) => (event.ended_at ? moment(event.ended_at) : "not yet"), "time"),
    text((event) => event.reason || event.response_summary || "–", "long"),
  ],
});

export const cooldowns = {
  id: "cooldowns",
  onSnapshot: () => log.follow(JSON.stringify(backends().map((backend) => [backend.status, backend.consecutive_429_count]))),
  forget: () => log.forget(),
};

// Requests.

const pause = document.getElementById("pause");

const calls = new Panel("calls", {
  load: () => get("calls", { limit: CALLS }),
  keyOf: (call) => call.id,
  columns: [
    twoLines((call) => clock(call.at), (call) => day(call.at), "time"),
    twoLines((call) => call.agent || call.client_name || call.client_id || "–", (call) => call.item),
    text((call) => call.model, "long"),
    twoLines(nameOf, (call) => (call.is_emergency ? "emergency" : "")),
    text((call) => number(call.attempt), "number"),
    badges((call) => [outcome(call)]),
    twoLines((call) => number(call.total_tokens), (call) => (call.is_estimate ? "estimated" : ""), "number"),
    text((call) => money(call.cost, 6), "number"),
    text((call) => number(call.latency_ms), "number"),
    text((call) => (call.ttft_ms === null || call.ttft_ms === undefined ? "–" : number(call.ttft_ms)), "number"),
  ],
});

const MEANINGS = { ok: "healthy", limited: "cooling", aborted: "disabled" };

function outcome(call) {
  const word = String(call.outcome).replaceAll("_", " ");
  return [call.status && call.status !== 200 ? `${word} · ${call.status}` : word, MEANINGS[call.outcome] ?? "error"];
}

const isPaused = () => pause.getAttribute("aria-pressed") === "true";

pause.addEventListener("click", () => {
  attribute(pause, "aria-pressed", String(!isPaused()));
  say(pause, isPaused() ? "Resume" : "Pause");
});

export const requests = {
  id: "requests",
  onSnapshot() {
    if (!isPaused() || find("tbody", calls.host).childElementCount === 0) calls.follow(sign());
  },
  forget: () => calls.forget(),
};
