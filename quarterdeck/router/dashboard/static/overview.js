// The first page: totals, pools, what needs attention, the last week as two lines.

import { get } from "./api.js";
import { wording } from "./dialog.js";
import { attribute, el, find, findAll, hide, keyed, mark, say } from "./dom.js";
import { counted, duration, money, moment, number, percent, short } from "./format.js";
import { avoided, backends, hasProviders, needsAttention, now, reason, sign, snapshot, standing } from "./state.js";

const HOURS = 168;
const HOUR = 3600;
const LEAST_REST_MS = 5000;
const SETTLED_MS = 3000;

const figures = Object.fromEntries(findAll("[data-figure]").map((node) => [node.dataset.figure, node]));
const attention = document.getElementById("attention");

export const page = {
  id: "dashboard",
  onSnapshot() {
    showTotals(snapshot());
    findAll("[data-pool]").forEach((panel) => showPool(panel, snapshot().pool[panel.dataset.pool]));
    showAttention();
    hide(find("#first-step"), hasProviders());
    charts.follow(sign());
  },
  forget: () => charts.forget(),
};

function showTotals({ total, uptime_seconds: uptime }) {
  say(figures.requests, number(total.total_requests));
  say(figures["error-rate"], `${percent(total.total_errors, total.total_requests)} errors`);
  say(figures.tokens, number(total.total_tokens));
  say(figures["token-kinds"], `${number(total.total_prompt_tokens)} prompt · ${number(total.total_completion_tokens)} completion`);
  say(figures.cost, money(total.total_cost, 4));
  say(figures.uptime, duration(uptime));
  say(figures.since, `since ${moment(Math.round(now() - uptime)).slice(0, -3)}`);
}

function showPool(panel, counts) {
  for (const place of findAll("[data-count]", panel)) {
    const count = counts?.[place.dataset.count] ?? 0;
    say(place, number(count));
    mark(place.parentElement, "is-some", count > 0);
  }
  const isEmpty = !counts?.total;
  const isAvoided = avoided(panel.dataset.pool);
  say(find(".avoided", panel), isAvoided);
  hide(find(".avoided", panel), !isAvoided);
  hide(find("dl", panel), isEmpty);
  hide(find(".none", panel), !isEmpty);
}

function showAttention() {
  const some = backends().filter(needsAttention);
  hide(attention, some.length === 0);
  keyed(find("ul", attention), some, (backend) => backend.id, makeEntry, changeEntry);
}

const makeEntry = () =>
  el("li", {}, el("span"), el("span", { class: "who" }), el("span", { class: "why" }), el("a", { href: "#providers" }, "Look"));

function changeEntry(node, backend) {
  const [badge, who, why] = node.children;
  const [word, meaning] = standing(backend)[0];
  say(badge, word === "healthy" ? "recovering" : word);
  attribute(badge, "class", `badge is-${meaning}`);
  say(who, backend.name);
  say(why, reason(backend));
}

// The charts are extra: whatever happens in them stays in them, also when their file does not come.

const CHARTS = {
  cost: { write: (value) => `$${Number(value.toPrecision(3))}`, tell: (value) => money(value, 4), least: 0.01 },
  tokens: { write: short, tell: (value) => counted(value, "token"), least: 4 },
};

const charts = {
  drawn: null,
  sign: null,
  begunAt: -Infinity,
  changedAt: 0,
  restsUntil: 0,

  forget() {
    Object.assign(this, { begunAt: -Infinity, restsUntil: 0 });
  },

  follow(signed) {
    const current = `${signed} ${Math.floor(now() / HOUR)}`;
    const at = performance.now();
    if (current !== this.sign) Object.assign(this, { sign: current, changedAt: at });
    if (this.begunAt < this.changedAt + SETTLED_MS && at >= this.restsUntil) this.refresh();
  },

  async refresh() {
    this.restsUntil = Infinity;
    this.begunAt = performance.now();
    try {
      const rows = await get("stats/hourly", { hours: HOURS });
      this.drawn ??= await made();
      this.show(perHour(rows));
    } catch (error) {
      for (const name of Object.keys(CHARTS)) say(find(`#chart-${name} .chart-note`), `No chart: ${wording(error)}`);
    } finally {
      const at = performance.now();
      this.restsUntil = at + Math.max(LEAST_REST_MS, 20 * (at - this.begunAt));
    }
  },

  show(sums) {
    for (const [name, chart] of Object.entries(this.drawn)) chart.draw(sums.map((sum) => ({ at: sum.at, value: sum[name] })));
  },
};

async function made() {
  const { Chart } = await import("./chart.js");
  return Object.fromEntries(Object.entries(CHARTS).map(([name, ways]) => [name, new Chart(`chart-${name}`, ways)]));
}

/** Sums over all backends for each of the last hours, also for those in which nothing was used. */
function perHour(rows) {
  const last = Math.floor(now() / HOUR) * HOUR;
  const sums = Array.from({ length: HOURS }, (_, index) => ({ at: last - (HOURS - 1 - index) * HOUR, cost: 0, tokens: 0 }));
  const first = sums[0].at;
  for (const row of rows) {
    const sum = sums[Math.round((Date.parse(row.hour_bucket) / 1000 - first) / HOUR)];
    if (!sum) continue;
    sum.cost += row.cost;
    sum.tokens += row.total_tokens;
  }
  return sums;
}
