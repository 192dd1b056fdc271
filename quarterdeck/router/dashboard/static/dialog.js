// Dialogs: the browser makes the page behind inert; Esc closes; the keyboard stays inside.

import { Refused } from "./api.js";
import { attribute, busyWith, button, el, find, findAll, say } from "./dom.js";

const FOCUSABLE = "button:not(:disabled), input, select, textarea, [tabindex='0']";

for (const dialog of findAll("dialog")) {
  for (const close of findAll(".close", dialog)) close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "Tab") stayInside(dialog, event);
  });
}

function stayInside(dialog, event) {
  const stops = findAll(FOCUSABLE, dialog).filter((stop) => stop.offsetParent);
  const [from, to] = event.shiftKey ? [stops[0], stops.at(-1)] : [stops.at(-1), stops[0]];
  if (document.activeElement !== from) return;
  event.preventDefault();
  to.focus();
}

/** A dialog with a form. `save()` sends it; what is refused is shown at its fields. */
export class FormDialog {
  constructor(id, save) {
    this.dialog = document.getElementById(id);
    this.form = find("form", this.dialog);
    this.fields = new Fields(this.form);
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      busyWith(find(".save", this.dialog), () => this.#send(save));
    });
  }

  open(title) {
    say(find("h2", this.dialog), title);
    this.fields.clear();
    this.opening = (this.opening ?? 0) + 1;
    this.dialog.showModal();
    find(".dialog-body", this.dialog).scrollTop = 0;
    find("input", this.form).focus();
  }

  async #send(save) {
    const opening = this.opening;
    this.fields.clear();
    try {
      if (!(await save())) return this.fields.focusWrong();
      if (opening === this.opening) this.dialog.close();
    } catch (error) {
      if (opening !== this.opening || !this.dialog.open) notice(wording(error), "error");
      else this.fields.refuse(error);
    }
  }
}

/** The labelled fields of a form, and what is wrong with them. */
export class Fields {
  constructor(form) {
    this.form = form;
    this.banner = find(".form-error", form);
    this.byName = new Map(findAll(".field", form).map((field) => [field.dataset.field, field]));
  }

  control = (name) => find("input, select, textarea", this.byName.get(name));
  value = (name) => this.control(name).value.trim();
  fill = (name, value) => { this.control(name).value = value ?? ""; };

  wrong(name, message) {
    const place = find(".field-error", this.byName.get(name));
    say(place, message);
    place.hidden = false;
    attribute(this.control(name), "aria-invalid", "true");
  }

  /** Each complaint at its field, all others above the form. */
  refuse(error) {
    const told = Object.entries(error.fields ?? {});
    const known = told.filter(([name]) => this.byName.has(name));
    known.forEach(([name, message]) => this.wrong(name, message));
    const named = known.length ? null : [...this.byName.keys()].find((name) => new RegExp(`\\b${name}\\b`).test(error.message));
    if (named) this.wrong(named, error.message);
    else if (known.length < Math.max(told.length, 1)) this.complain(wording(error));
    this.focusWrong();
  }

  complain(message) {
    say(this.banner, message);
    this.banner.hidden = false;
    this.banner.scrollIntoView({ block: "nearest" });
  }

  focusWrong() {
    find("[aria-invalid]", this.form)?.focus();
  }

  clear() {
    if (this.banner) this.banner.hidden = true;
    for (const [name, field] of this.byName) {
      find(".field-error", field).hidden = true;
      attribute(this.control(name), "aria-invalid", null);
    }
  }
}

const question = document.getElementById("question-dialog");
let answered = async () => {};

find("#question-yes").addEventListener("click", (event) => busyWith(event.target, () => answered()));

/** Asks before something is lost; stays open and says why when `act` is refused. */
export function ask({ title, text, yes, act }) {
  const fields = new Fields(find("form", question));
  say(find("h2", question), title);
  say(find("#question-text"), text);
  say(find("#question-yes"), yes);
  fields.clear();
  answered = async () => {
    try {
      await act();
      question.close();
    } catch (error) {
      fields.complain(wording(error));
    }
  };
  question.showModal();
  find(".dialog-foot .close", question).focus();
}

const notices = document.getElementById("notices");
const NOTICE_MS = 8000;

/** Says what came of something; errors stay until they are put away. */
export function notice(message, kind = "done") {
  const shown = el("div", { class: `notice is-${kind}` }, el("span", {}, message));
  shown.append(button("✕", () => shown.remove(), { class: "quiet", "aria-label": "Put away" }));
  notices.append(shown);
  if (kind === "done") setTimeout(() => shown.remove(), NOTICE_MS);
}

/** Does it, and says what came of it. */
export async function telling(done, act) {
  try {
    await act();
    notice(done);
  } catch (error) {
    notice(wording(error), "error");
  }
}

export function wording(error) {
  if (error instanceof Refused) return error.message;
  console.error(error);
  return "Something went wrong in this page; reload it and try again.";
}

export function closeAll() {
  findAll("dialog[open]").forEach((dialog) => dialog.close());
}
