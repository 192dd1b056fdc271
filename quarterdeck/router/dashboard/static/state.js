// What the live stream said last, and what follows from it in several places.

import { clock, counted, duration, number } from "./format.js";

const state = { snapshot: null, ahead: 0 };

export function take(snapshot) {
  state.snapshot = snapshot;
  state.ahead = snapshot.timestamp - Date.now() / 1000;
}

export const forget = () => { state.snapshot = null; };
export const snapshot = () => state.snapshot;
export const backends = () => state.snapshot?.backends ?? [];

/** Whether a person entered any; the built-in one does not count. */
export const hasProviders = () => backends().some((backend) => !backend.is_built_in);

/** Seconds of the router's clock, which need not be this machine's. */
export const now = () => Date.now() / 1000 + state.ahead;

/** A backend is known by its name; one that is gone keeps its rows. */
export const nameOf = (row) =>
  backends().find((backend) => backend.id === row.backend_id)?.name || row.backend_name || `${row.backend_id} (deleted)`;

/** Changes whenever calls were made. */
export const sign = () => JSON.stringify(state.snapshot?.total ?? null);

const WELL = "healthy";

/** Status and health in words, the worst first. */
export function standing(backend) {
  if (!backend.enabled) return [["disabled", "disabled"]];
  if (backend.status !== WELL) return [[backend.status, backend.status]];
  return backend.health === WELL || !backend.health ? [[WELL, WELL]] : [[backend.health, backend.health]];
}

export const needsAttention = (backend) =>
  backend.enabled && (backend.status !== WELL || (backend.health ?? WELL) !== WELL || Boolean(backend.half_open));

/** Counts of a pool call those healthy, too, that calls avoid: this says how many; "" where there is none. */
export function avoided(pool) {
  const those = backends().filter((backend) => backend.pool === pool && backend.enabled && backend.status === WELL);
  const of = (health) => those.filter((backend) => backend.health === health).length;
  const told = [[of("down"), "down (not called)"], [of("degraded"), "degraded (called last)"]];
  const some = told.filter(([count]) => count).map(([count, word]) => `${number(count)} ${word}`);
  return some.length ? `Among the healthy: ${some.join(", ")}.` : "";
}

export const canBeReset = (backend) =>
  backend.enabled && (backend.status === "cooling" || backend.status === "error" || backend.health === "down");

const KINDS = {
  rate: "too many requests per minute",
  quota: "quota used up until a date",
  account: "account: a person should look (billing, credit)",
};

/** What holds a backend back, as names and values. */
export function condition(backend) {
  return [
    ["Kind", KINDS[backend.kind] ?? backend.kind],
    ["Until", backend.cooldown_until && countdown(backend.cooldown_until)],
    ["Failing since", backend.unwell_since && ago(backend.unwell_since)],
    ["Last probe", backend.last_check_at && `${clock(backend.last_check_at)}: ${backend.last_status_code || "no answer"}`],
    ["Next probe", backend.next_probe_at && countdown(backend.next_probe_at)],
    ["429s in a row", backend.consecutive_429_count || null],
    ["Failures in a row", backend.failures || null],
    ["Half-open", backend.half_open && `${backend.status === WELL ? "now" : "afterwards"} at most ${number(backend.half_open)} at a time`],
    ["In flight", backend.in_flight || null],
    ["Success, last 5 min", success(backend)],
  ].filter(([, value]) => value !== null && value !== undefined && value !== 0 && value !== "");
}

export function reason(backend) {
  if (backend.reason) return backend.reason;
  return backend.half_open ? "It is being tried again, carefully." : "No reason was given.";
}

/** Of no calls there is no share. */
function success({ success_rate_5m: rate, calls_5m: calls }) {
  return calls ? `${(rate * 100).toFixed(0)}% of ${counted(calls, "call")}` : "– (no calls)";
}

function ago(moment) {
  return `${clock(moment)} (${duration(now() - Date.parse(moment) / 1000)})`;
}

function countdown(moment) {
  const at = Date.parse(moment) / 1000;
  const left = at - now();
  return left > 0 ? `${clock(at)} (in ${duration(left)})` : `${clock(at)} (due)`;
}
