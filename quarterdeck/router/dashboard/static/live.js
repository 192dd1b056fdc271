// The live stream, read with fetch because EventSource cannot send the token; it comes back by itself.

import { Refused, openStream } from "./api.js";

const SILENCE_MS = 40_000; // the router says something at least every 15 seconds
const PAUSES = [1, 2, 4, 8, 15];

export class Live {
  /** `tell(state, seconds)`: "connecting", "on" after the first event, "off" until the next try. */
  constructor({ onSnapshot, tell, onUnauthorized }) {
    Object.assign(this, { onSnapshot, tell, onUnauthorized });
    this.failures = 0;
    this.running = null;
    window.addEventListener("online", () => this.retry());
  }

  start() {
    this.stop();
    this.failures = 0;
    this.running = new AbortController();
    this.#run(this.running.signal);
  }

  stop() {
    this.running?.abort();
    this.running = null;
  }

  retry() {
    if (this.running) this.wake?.();
  }

  async #run(signal) {
    this.tell("connecting");
    while (!signal.aborted) {
      try {
        await this.#read(signal);
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Refused && error.status === 401) return this.onUnauthorized(error.message);
      }
      if (!signal.aborted) await this.#rest(signal);
    }
  }

  /** Until the stream ends or falls silent. */
  async #read(signal) {
    const reading = new AbortController();
    const end = () => reading.abort();
    signal.addEventListener("abort", end);
    let alarm = setTimeout(end, SILENCE_MS);
    try {
      const answer = await openStream(reading.signal);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        clearTimeout(alarm);
        alarm = setTimeout(end, SILENCE_MS);
        const events = (rest + part.value).split("\n\n");
        rest = events.pop();
        events.forEach((event) => this.#take(event));
      }
    } finally {
      clearTimeout(alarm);
      signal.removeEventListener("abort", end);
    }
  }

  #take(event) {
    if (!event.startsWith("data: ")) return;
    this.failures = 0;
    this.onSnapshot(JSON.parse(event.slice("data: ".length)));
    this.tell("on");
  }

  /** Longer after each failure; a second at a time, so that the page can count down. */
  async #rest(signal) {
    const pause = PAUSES[Math.min(this.failures++, PAUSES.length - 1)];
    let isWoken = false;
    for (let left = pause; left > 0 && !isWoken && !signal.aborted; left -= 1) {
      this.tell("off", left);
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, 1000);
        this.wake = () => { isWoken = true; clearTimeout(timer); resolve(); };
      });
    }
    this.wake = null;
  }
}
