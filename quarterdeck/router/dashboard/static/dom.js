// Elements made of text nodes only: no text can become markup. Changes touch nothing that is the same,
// so that focus, selection and open menus stay where they are.

export const find = (selector, within = document) => within.querySelector(selector);
export const findAll = (selector, within = document) => [...within.querySelectorAll(selector)];

const SVG = "http://www.w3.org/2000/svg";

export function el(name, attributes = {}, ...children) {
  return furnish(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, name), attributes, children);
}

/** A button that does something; it cannot be pressed again until that is done. */
export function button(text, act, attributes = {}) {
  const made = el("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", () => busyWith(made, act));
  return made;
}

export async function busyWith(pressed, act) {
  const hadFocus = document.activeElement === pressed;
  pressed.disabled = true;
  try {
    await act();
  } finally {
    pressed.disabled = false;
    if (hadFocus && document.activeElement === document.body) pressed.focus(); // disabling took it away
  }
}

function furnish(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function say(node, text) {
  const wanted = String(text ?? "");
  if (node.textContent === wanted) return;
  const only = node.childNodes.length === 1 ? node.firstChild : null;
  if (only?.nodeType === Node.TEXT_NODE) only.data = wanted;
  else node.textContent = wanted;
}

export function attribute(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function hide(node, isHidden) {
  if (node.hidden !== isHidden) node.hidden = isHidden;
}

export function mark(node, name, isMarked) {
  if (node.classList.contains(name) !== isMarked) node.classList.toggle(name);
}

const keys = new WeakMap();

/** Makes the children of `parent` those of `items`: same key, same node. Children without a key stay first. */
export function keyed(parent, items, keyOf, make, change) {
  const focused = document.activeElement;
  const kept = new Map([...parent.children].filter((node) => keys.has(node)).map((node) => [keys.get(node), node]));
  const wanted = new Set(items.map(keyOf));
  for (const [key, node] of kept) if (!wanted.has(key)) node.remove();
  let next = skipUnkeyed(parent.firstElementChild);
  for (const item of items) {
    const node = kept.get(keyOf(item)) ?? made(keyOf(item), item, make);
    change(node, item);
    if (node === next) next = skipUnkeyed(next.nextElementSibling);
    else parent.insertBefore(node, next);
  }
  returnFocus(parent, focused);
}

function made(key, item, make) {
  const node = make(item);
  keys.set(node, key);
  return node;
}

function skipUnkeyed(node) {
  while (node && !keys.has(node)) node = node.nextElementSibling;
  return node;
}

/** Moving a node loses its focus; removing it would leave the keyboard nowhere. */
function returnFocus(parent, focused) {
  if (!focused || focused === document.activeElement || focused === document.body) return;
  const target = focused.isConnected ? focused : find("h1", parent.closest(".page") ?? document);
  target?.focus({ preventScroll: true });
}
