// A panel that loads what it shows: it says so while it waits, when it failed, and when there is nothing.

import { Refused } from "./api.js";
import { attribute, el, find, findAll, hide, keyed, say } from "./dom.js";

const SETTLED_MS = 3000; // what is counted at once is in the tables a moment later
const LEAST_REST_MS = 2000;
const ROWS = 200;

export class Panel {
  /** `load()` gives the rows; `columns`: `{show(cell, row), is}`; `keyOf(row)` tells rows apart. */
  constructor(id, { load, columns, keyOf, rowClass = () => "", settles = SETTLED_MS, rests = LEAST_REST_MS }) {
    Object.assign(this, { load, columns, keyOf, rowClass, settles, rests });
    this.host = document.getElementById(id);
    this.body = find("tbody", this.host);
    this.labels = findAll("thead th", this.host).map((head) => head.textContent);
    this.more = find(".more", this.host);
    this.most = ROWS;
    this.rows = null;
    this.forget();
    find(".retry", this.host).addEventListener("click", () => this.refresh());
    this.more.addEventListener("click", () => { this.most += ROWS; this.show(this.rows); });
  }

  forget() {
    this.begunAt = -Infinity;
    this.restsUntil = 0;
    this.changedAt = 0;
    this.rows = null;
    this.body.replaceChildren();
    attribute(this.host, "data-state", "loading");
  }

  /** Loads again when `sign` has changed since, never twice at once, and the rarer the longer it takes. */
  follow(sign) {
    const now = performance.now();
    if (sign !== this.sign) Object.assign(this, { sign, changedAt: now });
    if (this.begunAt < this.changedAt + this.settles && now >= this.restsUntil && !this.isLoading) this.refresh();
  }

  async refresh() {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    this.isLoading = true;
    this.begunAt = performance.now();
    try {
      const rows = await this.load();
      if (turn === this.turn) this.show(rows);
    } catch (error) {
      if (turn === this.turn) this.#failed(error);
    } finally {
      const now = performance.now();
      if (turn === this.turn) this.isLoading = false;
      this.restsUntil = now + Math.max(this.rests, 20 * (now - this.begunAt));
    }
  }

  show(rows) {
    this.rows = rows;
    keyed(this.body, rows.slice(0, this.most), this.keyOf, (row) => this.#make(row), (node, row) => this.#change(node, row));
    hide(this.more, rows.length <= this.most);
    attribute(this.host, "data-state", rows.length ? "ready" : "empty");
  }

  #failed(error) {
    if (!(error instanceof Refused)) console.error(error);
    say(find(".is-failed .message", this.host), error instanceof Refused ? error.message : "This cannot be shown.");
    attribute(this.host, "data-state", this.rows ? "stale" : "failed");
  }

  #make(row) {
    if (row.whole) return el("tr", { class: "whole" }, el("td", { class: "wide-cell", colspan: this.columns.length }));
    return el("tr", {}, ...this.columns.map((column, index) => el("td", { class: column.is, "data-label": this.labels[index] })));
  }

  #change(node, row) {
    attribute(node, "class", row.whole ? "whole" : this.rowClass(row));
    if (row.whole) row.whole(node.cells[0]);
    else this.columns.forEach((column, index) => column.show(node.cells[index], row));
  }
}

/** A column of plain text. */
export const text = (of, is = "") => ({ is, show: (cell, row) => say(cell, of(row)) });

/** Text, and smaller text below it. */
export function twoLines(of, under, is = "") {
  return {
    is,
    show(cell, row) {
      if (!cell.firstChild) cell.append(el("span"), el("span", { class: "under" }));
      say(cell.firstChild, of(row));
      say(cell.lastChild, under(row));
      hide(cell.lastChild, !under(row));
    },
  };
}

/** Badges: `of(row)` gives their words and meanings. */
export function badges(of) {
  return {
    is: "",
    show(cell, row) {
      if (!cell.firstChild) cell.append(el("div", { class: "badges" }));
      const wanted = of(row).map(([word, meaning]) => ({ word, meaning }));
      const change = (node, badge) => { say(node, badge.word); attribute(node, "class", `badge is-${badge.meaning}`); };
      keyed(cell.firstChild, wanted, (badge) => badge.meaning, () => el("span"), change);
    },
  };
}
