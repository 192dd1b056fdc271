// Puts the page together: signing in, the live connection, and which page is seen.

import { token, whenUnauthorized } from "./api.js";
import { page as clients } from "./clients.js";
import { Fields, closeAll } from "./dialog.js";
import { attribute, find, findAll, hide, say } from "./dom.js";
import { duration } from "./format.js";
import { Live } from "./live.js";
import { page as overview } from "./overview.js";
import { page as providers } from "./providers.js";
import { forget, snapshot, take } from "./state.js";
import { cooldowns, requests, usage } from "./tables.js";

const PAGES = [overview, providers, usage, cooldowns, requests, clients];

const connection = document.getElementById("connection");
const reconnect = document.getElementById("reconnect");
const signIn = document.getElementById("sign-in");
const signInForm = document.getElementById("sign-in-form");
const signInButton = document.getElementById("sign-in-button");
const fields = new Fields(signInForm);

const live = new Live({
  tell: showConnection,
  onSnapshot(told) {
    take(told);
    if (!signIn.hidden) enter();
    current().onSnapshot();
  },
  onUnauthorized: leave,
});

whenUnauthorized(leave);
reconnect.addEventListener("click", () => live.retry());
document.getElementById("sign-out").addEventListener("click", () => {
  token.forget();
  location.reload(); // so that nothing that was shown is left in the page
});
window.addEventListener("hashchange", () => showPage(true));

// Signing in and out.

signInForm.addEventListener("submit", (event) => {
  event.preventDefault();
  fields.clear();
  const given = fields.value("token");
  if (!given) {
    fields.wrong("token", "Enter the token.");
    return fields.focusWrong();
  }
  if (!/^[\x21-\x7e]+$/.test(given)) {
    fields.wrong("token", "A token has no spaces and no letters beyond plain ones.");
    return fields.focusWrong();
  }
  token.set(given);
  signInButton.disabled = true;
  say(signInButton, "Checking…");
  live.start();
});

function enter() {
  signIn.hidden = true;
  document.body.classList.remove("is-signed-out");
  fields.fill("token", "");
  showPage(true);
}

/** The router said no, and `why`. */
function leave(why) {
  live.stop();
  token.forget();
  forget();
  closeAll();
  PAGES.forEach((page) => page.forget?.());
  showSignIn();
  fields.wrong("token", why);
}

function showSignIn() {
  findAll(".page").forEach((page) => { page.hidden = true; });
  document.body.classList.add("is-signed-out");
  signIn.hidden = false;
  resetButton();
  fields.clear();
  fields.control("token").focus();
}

function resetButton() {
  signInButton.disabled = false;
  say(signInButton, "Sign in");
}

// The connection.

function showConnection(state, seconds) {
  const words = { connecting: "connecting…", on: "connected", off: "disconnected" };
  const since = { connecting: "", on: ` · up ${duration(snapshot()?.uptime_seconds ?? 0)}`, off: ` · again in ${seconds}s` };
  say(find("#connection-state"), words[state]); // only this is read out
  say(find("#connection-since"), since[state]);
  attribute(connection, "data-state", state);
  hide(reconnect, state !== "off");
  if (state === "off" && !signIn.hidden) {
    resetButton();
    fields.wrong("token", `The router cannot be reached; it is tried again in ${seconds}s.`);
  }
}

// Pages.

function current() {
  return PAGES.find((page) => `#${page.id}` === location.hash) ?? overview;
}

function showPage(isMoved) {
  if (!signIn.hidden) return;
  const chosen = current();
  for (const page of PAGES) {
    const host = document.getElementById(`page-${page.id}`);
    const link = find(`[data-page="${page.id}"]`);
    host.hidden = page !== chosen;
    attribute(link, "aria-current", page === chosen ? "page" : null);
    if (page === chosen) document.title = `${host.dataset.title} · Router · Quarterdeck`;
  }
  if (snapshot()) chosen.onSnapshot();
  if (isMoved) find(`#page-${chosen.id} h1`).focus({ preventScroll: true });
}

if (token.get()) {
  document.body.classList.remove("is-signed-out");
  showPage(false);
  live.start();
} else {
  showSignIn();
}
