// Reads JSON and says where it is wrong: browsers do so differently, or not at all.

const WORDS = { true: true, false: false, null: null };
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const WORD = /[A-Za-z]+/y;

export class Fault extends Error {
  constructor(message, text, at) {
    const before = text.slice(0, at).split("\n");
    super(`Line ${before.length}, column ${before.at(-1).length + 1}: ${message}`);
    this.at = at;
  }
}

/** The value of a JSON text. Raises `Fault`, also where a key appears twice, of which one would be lost. */
export function parse(text) {
  let at = 0;
  const fail = (message, place = at) => { throw new Fault(message, text, place); };
  const skip = () => { while (at < text.length && " \t\r\n".includes(text[at])) at += 1; };
  const seen = () => (at < text.length ? `“${text[at]}”` : "the end");

  function taken(pattern) {
    pattern.lastIndex = at;
    const match = pattern.exec(text);
    if (match) at += match[0].length;
    return match?.[0];
  }

  function value() {
    skip();
    if (text[at] === "{") return object();
    if (text[at] === "[") return array();
    if (text[at] === '"') return string();
    const begun = at;
    const numeral = taken(NUMBER);
    if (numeral) return Number(numeral);
    const word = taken(WORD);
    if (word !== undefined && Object.hasOwn(WORDS, word)) return WORDS[word];
    at = begun;
    return fail(word ? `“${word}” is no value; text needs "quotes".` : `a value was expected, not ${seen()}.`);
  }

  function string() {
    const begun = at;
    const found = taken(STRING);
    return found ? JSON.parse(found) : fail("this text has no end, or a character that must be escaped.", begun);
  }

  function object() {
    const made = new Map();
    list("}", () => {
      skip();
      const begun = at;
      if (text[at] !== '"') fail(`a name in "quotes" was expected, not ${seen()}.`);
      const name = string();
      if (made.has(name)) fail(`“${name}” appears twice.`, begun);
      skip();
      if (text[at] !== ":") fail(`a colon was expected after “${name}”, not ${seen()}.`);
      at += 1;
      made.set(name, value());
    });
    return Object.fromEntries(made);
  }

  function array() {
    const made = [];
    list("]", () => made.push(value()));
    return made;
  }

  /** What stands between brackets, separated by commas. */
  function list(end, element) {
    at += 1;
    skip();
    if (text[at] === end) { at += 1; return; }
    for (;;) {
      element();
      skip();
      if (text[at] === end) { at += 1; return; }
      if (text[at] !== ",") fail(`a comma or “${end}” was expected, not ${seen()}.`);
      const comma = at;
      at += 1;
      skip();
      if (text[at] === end) fail(`there is a comma too many before “${end}”.`, comma);
    }
  }

  const found = value();
  skip();
  return at < text.length ? fail(`nothing more was expected here, but there is ${seen()}.`) : found;
}
