// A clock that stands still, and WebSockets whose events a test fires; to be imported before the client connects.

export const timers = new Map(); // id → {act, ms}
let drawn = 0;
const begin = (act, ms) => (timers.set(++drawn, { act, ms }), drawn);
const end = (id) => void timers.delete(id);
Object.assign(globalThis, { setTimeout: begin, setInterval: begin, clearTimeout: end, clearInterval: end });
Math.random = () => 0.3; // so that no pause is as long as one of the others

export const sockets = [];

export class Socket {
  readyState = 0;
  sent = [];

  constructor(url) {
    this.url = url;
    sockets.push(this);
  }

  send(text) { this.sent.push(JSON.parse(text)); }
  close() { this.readyState = 3; }

  open() {
    this.readyState = 1;
    this.onopen?.({});
    this.says({ type: "welcome", heartbeat_s: 15, limits: {} });
  }

  says(frame) { this.onmessage?.({ data: JSON.stringify(frame) }); }

  /** `events`: "error" and "close", in the order in which this WebSocket tells that it is over. */
  fails(events, code = 1006) {
    this.readyState = 3;
    for (const event of events) this[`on${event}`]?.({ code, reason: "" });
  }
}

const isTry = ({ ms }) => ms !== 1_000 && ms !== 4_000; // its look at the clock, and what it gives a probe

/** How long the client waits before its next try. */
export const waits = () => [...timers.values()].filter(isTry).map(({ ms }) => ms);

/** The next try. */
export function retry() {
  const [id, { act }] = [...timers].find(([, timer]) => isTry(timer));
  timers.delete(id);
  act();
}

/** Until everything that waits for nobody is done. */
export async function settled() {
  for (let turn = 0; turn < 50; turn++) await null;
}
export const say = (value) => console.log(JSON.stringify(value));
