// How figures, times and durations are written.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });

export const number = (value) => whole.format(value ?? 0);
export const short = (value) => compact.format(value ?? 0);

/** `1 call`, `2 calls`. */
export const counted = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

export function money(dollars, digits) {
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return `$${new Intl.NumberFormat("en-US", options).format(dollars ?? 0)}`;
}

export function percent(part, all) {
  return `${(all ? (100 * part) / all : 0).toFixed(1)}%`;
}

/** `3d 4h 5m`; below a minute seconds, because a countdown is watched. */
export function duration(seconds) {
  const left = Math.max(0, Math.round(seconds));
  if (left < 60) return `${left}s`;
  const parts = [[Math.floor(left / 86400), "d"], [Math.floor(left / 3600) % 24, "h"], [Math.floor(left / 60) % 60, "m"]];
  return parts.filter(([count]) => count).map(([count, unit]) => `${count}${unit}`).join(" ");
}

const two = (value) => String(value).padStart(2, "0");
const date = (when) => (typeof when === "number" ? new Date(when * 1000) : new Date(when));

export const monthDay = (when) => `${two(date(when).getMonth() + 1)}-${two(date(when).getDate())}`;
export const hour = (when) => `${two(date(when).getHours())}:00`;
export const day = (when) => `${date(when).getFullYear()}-${monthDay(when)}`;

export function clock(when) {
  const at = date(when);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

export const moment = (when) => `${day(when)} ${clock(when)}`;
export const fullHour = (when) => `${day(when)} ${hour(when)}`;
