/**
 * The browser client of relay (protocol relay.v1): one ES module, no dependencies, no build step. It runs in current
 * browsers, in Node 22 or newer, and in Node 20 with a WebSocket handed over. relay-client.d.ts describes every property and
 * event.
 *
 *     import { connect } from "https://relay.example.org/relay-client.js";
 *
 *     const relay = connect();                        // one WebSocket, to the gateway that served this module
 *     const session = relay.session("chat-1");        // follows the session from its first event
 *     session.addEventListener("change", ({ detail }) => {
 *       for (const name of detail.generations) draw(session.generations.get(name), { animated: !detail.catchup });
 *     });
 *     const { generation } = await session.submit({ content: "Hello" });
 *     await session.stop(generation);
 *
 * connect(url?, {token?, codec?, WebSocket?}) → Relay
 * Relay: state, trouble, limits, features, session(name, {from? | cursor?}), close(); events `state`, `trouble`, `error`
 * Session: name, messages, generations (Map, in order of submit), cursor, resumed, rebuilding, following, refused, degraded,
 *   submit({content | messages | retry_of, ...}, {signal?}) → Promise of {generation, duplicate, ignored?},
 *   stop(generation) → Promise of {generation, already_ended}, unsubscribe();
 *   events `change` (at most once per picture), `end`, `interrupted`, `lost`, `error`, `deleted`
 *
 * A submit or stop is sent again until it is answered, through reconnects and retryable errors, for as long as the page
 * is open; a submit always with the same request_id, so it makes one generation. A promise rejects with a RelayError; after
 * "closed" the command may still have taken effect.
 *
 * The file, top-down: the rules (pure: frames → state), a session, the connection.
 */

// ── Rules ───────────────────────────────────────────────────────────────────────────────────────────────────────────
// The same as relay/protocol/view.py, which is the model. No socket, no clock, no DOM.

const KEEP_LOST = 20; // the newest answers that are lost, with their text
const KINDS = new Set(["status", "tokens", "reasoning", "data", "restart", "end"]);
const CRC_TABLE = Int32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});
const utf8 = (text) => new TextEncoder().encode(text);

/** Replaces half a character (of an emoji cut in two, say) with U+FFFD: JSON with one is refused. */
const whole = (text) => text.replace(/[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]/g, (found) => found.length === 2 ? found : "\ufffd");
const isMap = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const mended = (_, value) =>
  typeof value === "string" ? whole(value)
    : isMap(value) ? Object.fromEntries(Object.entries(value).map(([name, one]) => [whole(name), one]))
    : value;
const encode = (command) => JSON.stringify(command, mended);

/** The checksum of zlib, unsigned. */
export function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 255];
  return ~crc >>> 0;
}

/**
 * One answer. `texts` are its text as it came, so that a page appends only what is new; `text` joins them. `parts` are
 * the same, with the `data` events among them in order.
 */
export class Generation {
  attempt; state; detail; texts; parts; reasonings; data; count; partial; unproven; // as `restart` sets them

  constructor(generation) {
    this.generation = generation;
    this.message = null; // the user's turn; null for a `retry_of`
    this.begun = false; // true once more is known than its user turn
    this.end = null;
    this.restart(1, "queued");
  }

  restart(attempt, state = "retrying") {
    Object.assign(this, { attempt, state, detail: null, parts: [], texts: [], reasonings: [], data: [], count: 0 });
    this.partial = false; // joined live, or at a cursor: its beginning was not seen
    this.unproven = false; // shown, although its checksum does not match
  }

  get text() { return this.texts.join(""); }
  get reasoning() { return this.reasonings.join(""); }
  get running() { return this.end === null && this.state !== "interrupted" && this.state !== "lost"; }

  /** Apply one of its events; false if the text can no longer be what the model wrote. */
  apply(event) {
    switch (event.type) {
      case "status": this.state = event.state; this.detail = event.detail ?? null; return true;
      case "tokens": return this.grow(event);
      case "reasoning": this.reasonings.push(event.text); return true;
      case "data": this.data.push(event); this.parts.push(event); return true;
      case "end": this.state = event.reason; this.detail = null; this.end = event; return this.proves(event);
      default: return true; // a `restart` has taken effect by its attempt
    }
  }

  grow({ index, count, text }) {
    this.state = "streaming";
    this.detail = null;
    if (this.partial && !this.texts.length) [this.count, this.partial] = [index, index > 0]; // index 0 is its beginning
    const follows = index === this.count;
    this.texts.push(text);
    this.parts.push(text);
    this.count += count;
    return follows;
  }

  /** Whether the text shown is exactly what the model wrote. */
  proves({ count, text_bytes, crc32: checksum }) {
    const bytes = utf8(this.text);
    const agrees = this.count === (count ?? 0) && bytes.length === (text_bytes ?? 0) && crc32(bytes) === (checksum ?? 0);
    return this.partial || agrees;
  }
}

/** One session's state and cursor, and what to do after each frame. */
export class SessionView {
  constructor(session, prefix = "subscribe-") {
    this.session = session;
    this.prefix = prefix; // of the ids of its `subscribe` commands
    this.epoch = null;
    this.last = 0;
    this.head = 0; // as of the last `subscribed`
    this.waiting = true; // for the reply to `subscribe`: until then, log frames belong to another subscription
    this.live = false;
    this.resumed = false; // begun at a saved cursor: what came before it is not known here
    this.asked = 0;
    this.messages = [];
    this.generations = new Map();
    this.interrupted = new Map(); // lost with the old log, as they were shown, until they come back or are given up
    this.awaited = new Map(); // accepted, or forgotten here: should come, or come again
    this.lost = new Map(); // given up, as they were shown
    this.doubtful = new Set(); // the generations for which the last frame was a mismatch
  }

  get cursor() { return this.epoch === null ? null : { epoch: this.epoch, seq: this.last }; }
  get pending() { return this.waiting && this.asked ? this.prefix + this.asked : null; }

  /** Answers that the log should have, but has not shown so far. */
  get missing() { return [...this.interrupted.keys(), ...this.awaited.keys()]; }
  get rebuilding() { return this.epoch === null || this.last < this.head; }

  /** It was accepted, so the log has it or will have it. `message`: the question, until the log brings it. */
  expect(name, message = null) {
    const shown = this.generations.get(name);
    if (shown?.begun || this.interrupted.has(name)) return;
    this.lost.delete(name);
    if (this.awaited.has(name)) return;
    const awaited = new Generation(name);
    awaited.message = shown?.message ?? message;
    this.awaited.set(name, awaited);
  }

  /** Begin at a saved cursor, without the state that belonged to it. */
  resume({ epoch, seq }) {
    Object.assign(this, { epoch, last: seq, resumed: seq > 0 });
  }

  /** The command that begins, or resumes, following this session. */
  subscribe(from = "start") {
    this.waiting = true;
    this.live = from === "live";
    this.asked++;
    const command = { type: "subscribe", id: this.pending, session: this.session };
    if (this.cursor) command.cursor = this.cursor;
    else if (this.live) command.from = "live";
    return command;
  }

  /** Drop cursor and state: the next `subscribe` brings everything. */
  forget() {
    for (const [name, one] of this.generations) if (one.begun && one.end === null) this.awaited.set(name, one);
    Object.assign(this, { epoch: null, last: 0, resumed: false, messages: [], generations: new Map() });
  }

  /** Apply one frame: "applied", "dropped", "gap" (subscribe again), "mismatch" (forget, then subscribe again). */
  apply(frame) {
    if (frame.session !== this.session) return "dropped";
    if (frame.type === "subscribed") return this.subscribed(frame);
    if (frame.seq == null || this.waiting) return "dropped";
    const merged = frame.type === "catchup";
    if ((merged ? frame.from : frame.seq) !== this.last + 1) return frame.seq <= this.last ? "dropped" : "gap";
    this.doubtful = new Set();
    for (const event of merged ? frame.events : [frame]) if (!this.event(event)) this.doubtful.add(event.generation);
    this.last = frame.seq;
    return this.doubtful.size ? "mismatch" : "applied";
  }

  subscribed({ id, epoch, at, head, recovered, active }) {
    if (this.pending !== null && id !== this.pending) return "dropped"; // of an earlier subscription
    if (!recovered) this.rebuild(new Set(active.map(({ generation }) => generation)));
    Object.assign(this, { epoch, last: at, head, waiting: false });
    if (this.live && !recovered && at > 0) // at 0 everything follows from the beginning
      for (const { generation, attempt } of active) this.generation(generation, attempt).partial = true;
    return "applied";
  }

  /** A new log: what was seen should come again, or is interrupted. */
  rebuild(active) {
    this.forget();
    const seen = [...this.interrupted, ...[...this.awaited].filter(([, { begun }]) => begun)];
    const back = [...seen, ...this.lost].filter(([name]) => active.has(name));
    for (const [name] of [...seen, ...back]) this.came(name);
    for (const [name, one] of back) this.awaited.set(name, one);
    for (const [name, one] of seen) if (!active.has(name)) this.interrupted.set(name, Object.assign(one, { state: "interrupted", detail: null }));
  }

  /** It is no longer missing or lost. */
  came(name) {
    for (const those of [this.interrupted, this.awaited, this.lost]) those.delete(name);
  }

  /** `limits.lost_after_s` have passed without a sign of these: give up those that are missing. Returns them. */
  giveUp(names, keep = KEEP_LOST) {
    const missing = new Map([...this.interrupted, ...this.awaited].filter(([name]) => names.includes(name)));
    for (const [name, one] of missing) {
      this.came(name);
      this.lost.set(name, Object.assign(one, { begun: true, state: "lost" }));
    }
    for (const name of [...this.lost.keys()].slice(0, -keep)) this.lost.delete(name);
    return [...missing.keys()];
  }

  event(event) {
    if (event.type === "message") {
      // Only once, even if it had to be written again, or is for another answer to it.
      if (this.messages.some(({ message_id }) => message_id === event.message_id)) return true;
      this.messages.push(event);
      if (event.generation != null) this.place(event.generation).message = event; // so that the order is that of the submits
      if (this.awaited.has(event.generation)) this.awaited.get(event.generation).message = event;
      return true;
    }
    if (!KINDS.has(event.type)) return true; // from a later release; its seq counts
    return this.generation(event.generation, event.attempt ?? 1).apply(event);
  }

  /** The generation as of `attempt`: a higher attempt voids what was shown, with or without its `restart`. */
  generation(name, attempt) {
    const shown = this.place(name);
    if (this.resumed && !shown.begun) Object.assign(shown, { attempt, partial: true });
    shown.begun = true;
    shown.message ??= this.#question(name);
    this.came(name);
    if (attempt > shown.attempt) shown.restart(attempt);
    return shown;
  }

  /** The question of an answer that comes back without it; null if another answer has brought it. */
  #question(name) {
    const message = (this.interrupted.get(name) ?? this.awaited.get(name) ?? this.lost.get(name))?.message ?? null;
    return this.messages.some(({ message_id }) => message_id === message?.message_id) ? null : message;
  }

  place(name) {
    if (!this.generations.has(name)) this.generations.set(name, new Generation(name));
    return this.generations.get(name);
  }
}

// ── A session ───────────────────────────────────────────────────────────────────────────────────────────────────────

// As in client-constants.json, for both clients; a test compares.
const REBUILDS = 3; // for one answer whose text does not match its checksum; then it is shown as `unproven`
const REMEMBERED_DOUBTS = 200; // of so many answers the rebuilds are remembered
const BACKOFF_FIRST_MS = 250;
const BACKOFF_MOST_MS = 10_000;
const REFUSED_MOST_MS = 3_000; // added to `retry_after_s`: there may be no sign that it would be accepted now
const LOST_AFTER_S = 60; // if the gateway announces none
const LAST_CALL_MS = 1_000;

const SPREAD_MS = 500; // what one frame to all pages makes due is not sent by all at once
const PICTURE_MS = 100; // where nothing is drawn (a tab in the background), a timer dispatches the changes

const backoffMs = (failures, mostMs = BACKOFF_MOST_MS) => Math.random() * Math.min(mostMs, BACKOFF_FIRST_MS * 2 ** failures);
const spreadMs = () => Math.random() * SPREAD_MS;
const draw = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
const tell = (target, type, detail) => target.dispatchEvent(new CustomEvent(type, { detail }));

/** An error of the server, or of this client (`closed`, `rate_limited`, `too_large`), with PROTOCOL's fields. */
export class RelayError extends Error {
  code; retryable; retry_after_s; final;

  constructor({ code, message, retryable = false, retry_after_s, final = false }) {
    super(message);
    Object.assign(this, { name: "RelayError", code, retryable, retry_after_s, final });
  }
}

/** Made by `relay.session(name)`; methods that begin with _ are for the Relay. */
export class Session extends EventTarget {
  refused = null; // the relay's error, while it refuses to let this session be followed
  #left = false;
  #link; // what the Relay offers it
  #view;
  #from;
  #failures = 0; // `subscribe` commands in a row that failed
  #isPutOff = false; // the last one was refused for now
  #wantsRoom = false; // the last one was refused because the connection follows as many sessions as allowed
  #timer;
  #givingUp;
  #missingSince = new Map(); // generation → since when; counts only while we would hear of it
  #doubts = new Map(); // generation → how often its text did not match
  #degraded = false;
  #due = null; // {generations, catchup, news}: what the next `change` reports

  constructor(link, view, from) {
    super();
    [this.#link, this.#view, this.#from] = [link, view, from];
  }

  get name() { return this.#view.session; }
  get following() { return !this.#left && this.refused === null; }
  get messages() { return this.#view.messages; }
  get generations() { return new Map([...this.#view.generations, ...this.#view.interrupted, ...this.#view.lost]); }
  get cursor() { return this.#view.cursor; }
  get resumed() { return this.#view.resumed; }
  get rebuilding() { return this.#view.rebuilding; }
  get degraded() { return this.#degraded || this.#link.degraded(); }

  submit(body, { signal } = {}) {
    const command = { ...body, request_id: body.request_id ?? draw(), type: "submit", session: this.name };
    return this.#link.request(command, signal).then(({ generation, duplicate, ignored }) => {
      this.#expect(generation, duplicate, question(generation, body));
      return { generation, duplicate, ...(ignored && { ignored }) };
    });
  }

  stop(generation) {
    const command = { type: "stop", session: this.name, generation };
    return this.#link.request(command).then(({ already_ended }) => ({ generation, already_ended }));
  }

  unsubscribe() {
    if (this.#left) return;
    this._leave();
    this.#link.left();
  }

  _leave(news = []) {
    this.#left = true;
    this.refused = null;
    clearTimeout(this.#timer);
    this.#watchMissing();
    if (news.length) this.#change([], false, news);
  }

  _begin() {
    clearTimeout(this.#timer);
    this.#isPutOff = this.#wantsRoom = false;
    this.#link.send(this.#view.subscribe(this.#from));
  }

  /** What was refused for now would be accepted. */
  _awake() {
    if (!this.#isPutOff) return;
    this.#isPutOff = false;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this._begin(), spreadMs());
  }

  /** Another session is no longer followed. Returns whether this one takes its place. */
  _takeRoom() {
    const takes = this.#wantsRoom;
    if (takes) this._begin();
    return takes;
  }

  /** Nothing can be heard until the next `subscribed`. */
  _pause() {
    this.#view.waiting = true;
    this.#watchMissing();
  }

  _take(frame) {
    const before = frame.type === "subscribed" ? [...this.generations.keys()] : [];
    const next = this.#view.apply(frame);
    if (next === "dropped") return;
    if (next === "gap") return this.#again();
    if (next === "mismatch" && this.#doubt()) return this.#rebuild();
    if (frame.type === "subscribed") return this.#began(frame, before);
    this.#failures = 0;
    this.#watchMissing();
    const catchup = frame.type === "catchup";
    const events = (catchup ? frame.events : [frame]).filter(({ generation }) => generation != null);
    const ends = events.filter(({ type }) => type === "end");
    const news = ends.map((end) => ["end", { generation: end.generation, end, catchup }]);
    this.#change(events.map((event) => event.generation), catchup, news);
  }

  _refused(frame) {
    const error = new RelayError(frame);
    if (frame.id == null || frame.id !== this.#view.pending) return tell(this, "error", { error });
    if (frame.code === "bad_cursor") this.#rebuild();
    else if (frame.retryable) {
      this.#again(1_000 * (frame.retry_after_s ?? 0) + backoffMs(this.#failures, REFUSED_MOST_MS));
      this.#isPutOff = true;
    } else this.#refuse(error);
  }

  /** No new connection changes that: `relay.session` of this name makes another one. */
  #end() {
    this.#left = true;
    clearTimeout(this.#timer);
    this.#watchMissing();
    this.#link.ended();
  }

  /** Reported once, however often it is tried again: over a new connection, or when there is room. */
  #refuse(error) {
    const isKnown = this.refused?.code === error.code;
    this.refused = error;
    this.#wantsRoom = error.code === "too_many_subscriptions";
    if (error.code === "forbidden") this.#end();
    if (isKnown) return;
    this.#change([], false);
    tell(this, "error", { error });
  }

  _degrade(degraded) {
    if (degraded === this.#degraded) return;
    this.#degraded = degraded;
    this.#watchMissing();
    this.#change([], false);
  }

  #expect(generation, duplicate, message) {
    if (this.#left) return;
    this.#view.expect(generation, message);
    const unseen = this.#view.missing.includes(generation);
    if (duplicate && unseen && (this.resumed || this.#from === "live")) this.#rebuild(); // it may have begun before
    this.#watchMissing();
  }

  #began({ recovered }, before) {
    const interrupted = recovered ? [] : [...this.#view.interrupted.keys()];
    this.refused = null;
    this.#watchMissing();
    const changed = recovered ? [] : [...before, ...this.#view.generations.keys()];
    this.#change(changed, true, interrupted.map((generation) => ["interrupted", { generation }]));
  }

  /** Answers that do not come are given up `lost_after_s` after this, if we would hear of them. */
  #watchMissing() {
    const hears = !this.#left && !this.degraded && !this.#view.waiting && !this.rebuilding;
    const names = hears ? this.#view.missing : [];
    const since = this.#missingSince;
    if (names.length === since.size && names.every((name) => since.has(name))) return;
    const now = Date.now();
    this.#missingSince = new Map(names.map((name) => [name, since.get(name) ?? now]));
    this.#waitForMissing();
  }

  #waitForMissing() {
    clearTimeout(this.#givingUp);
    if (!this.#missingSince.size) return;
    // The page may have been asleep: first read what waits in the socket.
    const lastCall = () => (this.#givingUp = setTimeout(() => this.#giveUp(), LAST_CALL_MS));
    this.#givingUp = setTimeout(lastCall, Math.min(...this.#missingSince.values()) + this.#link.lostAfterMs() - Date.now());
  }

  #giveUp() {
    const by = Date.now() - this.#link.lostAfterMs();
    const before = [...this.#view.lost.keys()];
    const lost = this.#view.giveUp([...this.#missingSince].filter(([, since]) => since <= by).map(([name]) => name));
    for (const name of lost) this.#missingSince.delete(name);
    this.#waitForMissing();
    const gone = before.filter((name) => !this.#view.lost.has(name));
    if (lost.length) this.#change([...gone, ...lost], false, lost.map((generation) => ["lost", { generation }]));
  }

  /** Whether to rebuild because of a mismatch in the frame. */
  #doubt() {
    const { doubtful, generations } = this.#view;
    if (this.#doubts.size > REMEMBERED_DOUBTS) this.#doubts.clear();
    for (const name of doubtful) this.#doubts.set(name, (this.#doubts.get(name) ?? 0) + 1);
    const given = [...doubtful].filter((name) => this.#doubts.get(name) > REBUILDS);
    for (const name of given) generations.get(name).unproven = true;
    return given.length < doubtful.size;
  }

  #rebuild() {
    this.#from = "start"; // joining live may have caused the mismatch
    this.#view.forget();
    this.#again();
  }

  /** Subscribe again: at once, or a little later if the last try failed. */
  #again(delayMs = this.#failures && backoffMs(this.#failures)) {
    this._pause(); // frames that still come belong to the subscription that went wrong
    this.#failures++;
    if (!delayMs) return this._begin();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this._begin(), delayMs);
  }

  #change(generations, catchup, news = []) {
    if (this.#due === null) {
      this.#due = { generations: new Set(), catchup: false, news: [] };
      later(() => this.#tell());
    }
    for (const name of generations) this.#due.generations.add(name);
    this.#due.catchup ||= catchup;
    this.#due.news.push(...news);
  }

  #tell() {
    const { news, ...change } = this.#due;
    this.#due = null;
    tell(this, "change", change);
    for (const [type, detail] of news) tell(this, type, detail);
  }
}

/** The question as asked, while the log has not shown it; a `retry_of` has none. */
function question(generation, { content, messages }) {
  const asked = content ?? messages?.at(-1)?.content;
  return asked == null ? null : { message_id: null, role: "user", content: asked, generation };
}

/** Run once: at the next animation frame, if there are any; otherwise as soon as this task is done. */
function later(act) {
  if (!globalThis.requestAnimationFrame) return queueMicrotask(act);
  let done = false;
  const once = () => done || ((done = true), act());
  requestAnimationFrame(once);
  setTimeout(once, PICTURE_MS);
}

// ── The connection ──────────────────────────────────────────────────────────────────────────────────────────────────

// As in client-constants.json, for both clients; a test compares.
const WELCOME_WITHIN_MS = 10_000;
const ASK_AFTER_MS = 1_000; // without a word, a client without a token greets: the relay may want one
const SILENCE_HEARTBEATS = 2; // no frame for so many heartbeats plus the margin: the connection is dead
const SILENCE_MARGIN_MS = 5_000; // at most a heartbeat
const REFRESH_PAUSE_MS = 1_000; // the least between two refreshes; with less time left, a token is not asked for again
const STABLE_AFTER_MS = 2_000; // a connection shorter than that does not reset the backoff
const DRAIN_MOST_MS = 60_000; // the longest wait that a draining gateway may ask for

const UNREAD = new Set(["bad_message", "unknown_type", "too_large"]); // may come without an id: not even that could be read
const TOKEN_REFUSED = new Set([4401, 4501]);
const MAX_REQUESTS = 100; // unanswered at a time
const PROBE_MS = 4_000; // after a wake-up, or an error, a dead socket should not keep anybody waiting
const TROUBLE = { first: 3, every: 10 }; // tries in a row without a welcome, after which to look for the reason
const EPOCH = /^[A-Za-z0-9_-]{1,64}$/;
const isCursor = ({ epoch, seq }) => EPOCH.test(epoch) && Number.isSafeInteger(seq) && seq >= 0;
const SESSION = /^(?!\.{1,2}$)[A-Za-z0-9_.:-]{1,128}$/;

export function connect(url, options) {
  return new Relay(url, options);
}

/** One WebSocket after another, for any number of sessions. */
export class Relay extends EventTarget {
  state = "connecting";
  trouble = null; // in words, why there is no connection
  limits = {};
  features = [];
  #url;
  #options;
  #socket = null; // the current one: events of an abandoned one are ignored
  #opened = false;
  #welcomed = false;
  #outage = { tries: 0 }; // since the last welcome
  #deadline = 0; // when silence means that the connection is dead
  #patienceMs = WELCOME_WITHIN_MS;
  #stableFrom = Infinity;
  #failures = 0;
  #notBefore = 0; // a draining gateway said when to come back
  #timer;
  #watch;
  #listening = new AbortController();
  #sessions = new Map();
  // id → {text, session, resolve, reject, tries, timer, dueMs, sent (on this connection), suspect, unavailable (the last
  // refusal), awake (since it was sent, the relay came back)}
  #outbox = new Map();
  #drawn = 0;
  #degraded = false;
  #token = null; // of this connection
  #presented = false; // it was sent
  #asking = null; // the connection that a token is asked for
  #renewing = null; // the timer of a refresh, until it is done
  #refreshedMs = 0;
  #expiresMs = 0; // of the token of the last refresh
  #refusals = 0; // of tokens, in a row
  #brought = false; // an event, over this connection
  #identified = false; // the token of this connection is known, or that there is none
  #openedMs = 0;

  constructor(url, { codec = "json", ...options } = {}) {
    super();
    if (codec !== "json") throw new RangeError(`There is no codec ${codec}; json is the only one.`);
    this.#url = address(url);
    this.#options = options;
    this.#open(); // first: if it throws, nothing else must be left behind
    // An interval that checks the clock, because timers stand still while a laptop sleeps or a tab is in the background.
    this.#watch = setInterval(() => {
      if (!this.#socket) return;
      if (Date.now() > this.#deadline) this.#silent();
      else if (this.#opened && !this.#welcomed && Date.now() > this.#openedMs + ASK_AFTER_MS) this.#hello(true);
    }, 1_000);
    const { signal } = this.#listening;
    for (const type of ["online", "pageshow"]) globalThis.addEventListener?.(type, () => this.#wake(), { signal });
    const { document } = globalThis;
    document?.addEventListener("visibilitychange", () => document.hidden || this.#wake(), { signal });
  }

  session(name, { from = "start", cursor = null } = {}) {
    if (!SESSION.test(name)) throw new RangeError("A session's name has 1 to 128 characters of A-Z a-z 0-9 _ . : -");
    if (cursor !== null && !isCursor(cursor)) throw new RangeError("A cursor is {epoch, seq}, as the relay gave it.");
    if (cursor !== null && this.#sessions.has(name)) throw new Error(`${name} is followed already: its cursor is its own.`);
    if (this.#sessions.has(name)) return this.#sessions.get(name);
    const link = {
      send: (command) => this.#send(command),
      request: (command, signal) => this.#request(command, signal),
      // By its id our own is told from a deleted session's: the session may be followed again before the reply is here.
      ended: () => this.#sessions.delete(name),
      left: () => this.#sessions.delete(name) && this.#send({ type: "unsubscribe", id: "unsubscribe", session: name }),
      degraded: () => this.#degraded,
      lostAfterMs: () => 1_000 * (this.limits.lost_after_s ?? LOST_AFTER_S),
    };
    const view = new SessionView(name, `s${++this.#drawn}-`);
    if (cursor !== null) view.resume(cursor);
    const session = new Session(link, view, from);
    this.#sessions.set(name, session);
    if (this.#welcomed) session._begin();
    return session;
  }

  close() {
    this.#end(new RelayError({ code: "closed", message: "This client was closed." }));
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#abandon();
    try {
      this.#open();
    } catch (error) { // the first one could be made, so another may be
      tell(this, "error", { error });
      this.#lost();
    }
  }

  #open() {
    const Socket = this.#options.WebSocket ?? globalThis.WebSocket;
    if (!Socket) throw new Error("There is no WebSocket here (Node has one from 22 on): hand one over, as connect(url, { WebSocket }).");
    this.#opened = this.#presented = this.#brought = this.#identified = false;
    const socket = (this.#socket = new Socket(this.#url, "relay.v1.json"));
    const ours = (act) => (event) => socket === this.#socket && act(event);
    this.#patienceMs = WELCOME_WITHIN_MS;
    this.#heard();
    socket.onopen = ours(() => ((this.#opened = true), (this.#openedMs = Date.now()), this.#hello()));
    socket.onmessage = ours(({ data }) => this.#receive(data));
    socket.onclose = ours(({ code, reason }) => this.#lost(code, reason));
    // A failed handshake fires `error` and `close`, or (Node 22) only `error`; Node's `ws` ends the process if nobody
    // listens to `error`. Once it was open, only `close` has the code: wait a little for that.
    socket.onerror = ours(() => this.#opened ? this.#suspect() : this.#lost());
    this.#identify(socket);
  }

  /** Asks for the token while the connection opens, so that neither waits for the other. */
  async #identify(socket) {
    const { token } = this.#options;
    const fresh = typeof token === "function" ? await this.#ask(socket) : token ?? null;
    if (socket !== this.#socket) return;
    if (fresh === undefined) return this.#lost(1006, "", false);
    [this.#token, this.#identified] = [fresh, true];
    this.#hello();
  }

  /**
   * Once the connection is open and its token known, whichever comes last. Without one a relay that wants one says nothing
   * until it is greeted (`asks`).
   */
  #hello(asks = false) {
    if (!this.#opened || this.#presented || (this.#token === null && !(asks && this.#identified))) return;
    if (this.#socket.readyState !== 1) return; // it has failed, and its close is on the way
    this.#presented = true;
    this.#socket.send(encode({ type: "hello", id: "hello", ...(this.#token === null ? {} : { token: this.#token }) }));
  }

  /** What the token function gives; null for none, undefined if it throws, which is told. */
  async #ask(socket) {
    this.#asking = socket;
    try {
      return (await Promise.resolve().then(() => this.#options.token())) ?? null; // later: who listens comes after `connect`
    } catch (error) {
      if (socket === this.#socket) tell(this, "error", { error });
    } finally {
      if (socket === this.#asking) this.#asking = null;
    }
  }

  /** One refresh at a time. */
  #expires({ expires_in_s }) {
    if (typeof this.#options.token !== "function" || this.#renewing !== null) return;
    this.#renewIn(this.#refreshedMs + REFRESH_PAUSE_MS - Date.now(), Date.now() + 1_000 * expires_in_s);
  }

  #renewIn(delayMs, expiresMs) {
    this.#renewing = setTimeout(() => this.#renew(this.#socket, expiresMs), Math.max(0, delayMs));
  }

  /**
   * Asks again after half of what is left: the function may hold on to its token, or fail, for a while. Without success
   * the relay closes, and the next connection asks again.
   */
  async #renew(socket, expiresMs) {
    const fresh = await this.#ask(socket);
    if (socket !== this.#socket) return;
    this.#renewing = null;
    this.#expiresMs = expiresMs;
    const leftMs = expiresMs - Date.now();
    if (fresh != null && fresh !== this.#token) {
      [this.#token, this.#refreshedMs] = [fresh, Date.now()];
      this.#send({ type: "refresh", id: "refresh", token: fresh });
    } else if (leftMs >= REFRESH_PAUSE_MS) this.#renewIn(leftMs / 2, expiresMs);
  }

  /** The relay could not tell whether the last one is good: it is sent again, after the pause between two. */
  #putOff() {
    if (this.#renewing !== null || this.#expiresMs - Date.now() < REFRESH_PAUSE_MS) return;
    this.#token = "";
    this.#renewIn(REFRESH_PAUSE_MS, this.#expiresMs);
  }

  #receive(data) {
    this.#heard();
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return this.#lost(); // its meaning is unknown, but the cursors are known, so ask again from there
    }
    const session = this.#sessions.get(frame.session);
    this.#brought ||= frame.seq != null;
    switch (frame.type) {
      case "welcome": return this.#welcome(frame);
      case "accepted": case "stopping": return this.#answered(frame);
      case "error": return this.#failed(frame, session);
      case "draining": return this.#drain(frame);
      case "token_expiring": return this.#expires(frame);
      case "degraded": return this.#degrade(true, frame.session, session);
      case "restored": return this.#degrade(false, frame.session, session), this.#awake(frame.session);
      case "unsubscribed": return this.#unsubscribed(frame, session);
      case "subscribed": return session?._take(frame), this.#awake(frame.session);
      default: return session?._take(frame); // heartbeat, pong and frames of later releases belong to no session
    }
  }

  #welcome({ limits, features, heartbeat_s }) {
    this.limits = limits ?? {};
    this.features = features ?? [];
    const heartbeatMs = 1_000 * heartbeat_s;
    this.#patienceMs = SILENCE_HEARTBEATS * heartbeatMs + Math.min(SILENCE_MARGIN_MS, heartbeatMs);
    this.#heard();
    if (this.#welcomed) return; // the answer to a hello that was not needed
    this.#welcomed = true;
    this.#stableFrom = Date.now() + STABLE_AFTER_MS;
    this.#notBefore = 0;
    this.#outage = { tries: 0 };
    this.trouble = null;
    this.#become("open");
    this.#degrade(false); // if the new gateway is degraded, it says so for each session
    for (const session of this.#sessions.values()) session._begin();
    this.#awake();
    this.#deliverAll();
  }

  /** By our own `unsubscribe`, or a deletion: a session that was refused for lack of room may now have it. */
  #unsubscribed({ id }, session) {
    if (id == null && session && this.#sessions.delete(session.name)) session._leave([["deleted", {}]]);
    for (const one of this.#sessions.values()) if (one._takeRoom()) return;
  }

  #request(command, signal) {
    return new Promise((resolve, reject) => {
      const refuse = (code, message) => reject(new RelayError({ code, message }));
      if (this.state === "closed") return refuse("closed", "The connection is closed.");
      if (this.#outbox.size >= MAX_REQUESTS) return refuse("rate_limited", "Too many commands wait for their answer.");
      if (signal?.aborted) return reject(signal.reason);
      const id = `c${++this.#drawn}`;
      const text = encode({ ...command, id }); // now: so that what is sent again cannot be changed by the page
      this.#outbox.set(id, { text, session: command.session, resolve, reject, tries: 0 });
      signal?.addEventListener("abort", () => this.#outbox.get(id)?.tries === 0 && this.#settle(id).reject(signal.reason), { once: true });
      this.#deliver(id);
    });
  }

  #deliverAll() {
    for (const id of [...this.#outbox.keys()]) this.#deliver(id);
  }

  /** One at a time while we search for the one that could not be read. */
  #deliver(id) {
    const request = this.#outbox.get(id);
    if (!request || request.sent || request.timer || !this.#welcomed) return;
    const requests = [...this.#outbox.values()];
    if (requests.some(({ suspect }) => suspect) && requests.some(({ sent }) => sent)) return;
    const refuse = (code, message) => this.#settle(id).reject(new RelayError({ code, message }));
    const most = this.limits.max_command_bytes ?? Infinity;
    if (utf8(request.text).length > most) return refuse("too_large", "This is too long for the relay.");
    request.sent = this.#write(request.text);
    if (request.sent) [request.tries, request.awake] = [request.tries + 1, false];
  }

  #deliverIn(request, delayMs) {
    clearTimeout(request.timer);
    request.dueMs = Date.now() + delayMs;
    request.timer = setTimeout(() => ((request.timer = undefined), this.#deliverAll()), delayMs);
  }

  /** The relay, or this session, is back: what waited for it goes out soon, or once it is refused. */
  #awake(name) {
    for (const request of this.#outbox.values()) {
      if (name != null && name !== request.session) continue;
      request.awake = true;
      if (request.timer && request.unavailable) this.#deliverIn(request, Math.min(spreadMs(), request.dueMs - Date.now()));
    }
    if (name != null) this.#sessions.get(name)?._awake();
    else for (const session of this.#sessions.values()) session._awake();
  }

  #answered(frame) {
    const request = this.#settle(frame.id);
    request?.resolve(frame);
    if (request) this.#awake(request.session);
    this.#deliverAll();
  }

  #failed(frame, session) {
    const request = this.#outbox.get(frame.id);
    if (frame.id == null && UNREAD.has(frame.code) && this.#failedUnread(frame)) return;
    if (request && frame.retryable) {
      request.unavailable = frame.code === "unavailable";
      const waitMs = 1_000 * (frame.retry_after_s ?? 0) + backoffMs(request.tries, REFUSED_MOST_MS);
      this.#deliverIn(request, request.unavailable && request.awake ? spreadMs() : waitMs);
      request.sent = request.suspect = false;
      tell(session ?? this, "error", { error: new RelayError(frame) });
    } else if (request) this.#settle(frame.id).reject(new RelayError(frame));
    else if (session) session._refused(frame);
    else if (frame.id === "refresh" && frame.retryable) this.#putOff();
    else tell(this, "error", { error: new RelayError(frame) });
    this.#deliverAll();
  }

  /**
   * A refusal without its command's id: if only one waits, it was that one. If several wait, they are sent again one
   * after the other, over another connection, where no error about the first sending can come.
   * Returns whether any waits.
   */
  #failedUnread(frame) {
    const sent = [...this.#outbox].filter(([, one]) => one.sent && (frame.session == null || frame.session === one.session));
    if (sent.length === 1) {
      this.#settle(sent[0][0]).reject(new RelayError(frame));
      this.#deliverAll();
    } else if (sent.length) {
      for (const [, request] of sent) request.suspect = true;
      this.#lost();
    }
    return sent.length > 0;
  }

  #settle(id) {
    const request = this.#outbox.get(id);
    this.#outbox.delete(id);
    clearTimeout(request?.timer);
    return request;
  }

  #degrade(degraded, name, session) {
    if (name == null) this.#degraded = degraded;
    for (const one of name == null ? this.#sessions.values() : session ? [session] : []) one._degrade(degraded);
  }

  /** The gateway closes, at once or a little later; if it has not by then, we leave ourselves. */
  #drain({ reconnect_in_ms }) {
    const delayMs = Math.min(reconnect_in_ms, DRAIN_MOST_MS);
    this.#notBefore = Date.now() + delayMs;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#lost(), delayMs);
  }

  #send(command) {
    return this.#write(encode(command));
  }

  /** Nothing before the welcome: the first word may have to be `hello`, whose token is not known yet. */
  #write(text) {
    const open = this.#welcomed && this.#socket?.readyState === 1;
    if (open) this.#socket.send(text);
    return open;
  }

  #heard() {
    this.#deadline = Date.now() + this.#patienceMs;
  }

  /** Nothing was heard for too long; if we had not asked for anything, because of the token function. */
  #silent() {
    const isOurs = this.#opened && this.#asking !== null && !this.#presented && !this.#welcomed;
    if (isOurs) tell(this, "error", { error: new Error(`token() has given none within ${WELCOME_WITHIN_MS / 1_000} s.`) });
    this.#lost(1006, "", !isOurs);
  }

  /** Whether another connection is of no use. A token that was refused is replaced once, by the function, if there is one. */
  #isFinal(code, wasUseful) {
    const isEarly = this.#asking !== null && !this.#presented; // the relay could not wait for the token
    if (!TOKEN_REFUSED.has(code)) {
      if (wasUseful) this.#refusals = 0;
      return code >= 4500 && code <= 4999;
    }
    if (isEarly) return false;
    this.#refusals = wasUseful ? 1 : this.#refusals + 1;
    return typeof this.#options.token !== "function" || this.#refusals > 1;
  }

  /** `isTrouble`: false if the reason is known. */
  #lost(code = 1006, reason = "", isTrouble = true) {
    if (this.#isFinal(code, this.#brought || Date.now() > this.#stableFrom)) {
      const message = reason || `The relay closed the connection (${code}).`;
      return this.#end(new RelayError({ code: REFUSALS[code] ?? "forbidden", message, final: true }));
    }
    if (isTrouble && !this.#welcomed) this.#missed(code);
    this.#abandon();
    if (Date.now() > this.#stableFrom) this.#failures = 0;
    this.#stableFrom = Infinity;
    const drainMs = this.#notBefore - Date.now();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#connect(), drainMs > 0 ? drainMs : backoffMs(this.#failures++));
    if (this.state === "open") this.#become("reconnecting");
  }

  /** Another try without a welcome. Reported after several in a row, and later if the reason is another one. */
  async #missed(code) {
    const outage = this.#outage;
    if (++outage.tries % TROUBLE.every !== TROUBLE.first) return;
    const trouble = this.#opened
      ? `Connections to ${http(this.#url)} open, but end before the relay's welcome (close code ${code}). What is there may be no relay, or not want this client.`
      : await diagnosis(http(this.#url), this.#listening.signal);
    if (outage !== this.#outage || this.state === "closed" || trouble === this.trouble) return;
    this.trouble = trouble;
    tell(this, "trouble", { trouble });
  }

  /** The socket may be dead: give it a short time to show that it is not. */
  #suspect() {
    this.#deadline = Math.min(this.#deadline, Date.now() + PROBE_MS);
  }

  /** The network or the person is back: skip the backoff, and do not trust a socket that may be dead. */
  #wake() {
    if (this.state === "closed") return;
    if (this.#send({ type: "ping", id: "ping" })) this.#suspect();
    else if (!this.#socket && Date.now() >= this.#notBefore) this.#connect();
  }

  /** For good. */
  #end(error) {
    if (this.state === "closed") return;
    this.#abandon();
    for (const timer of [this.#timer, this.#watch]) clearTimeout(timer);
    this.#listening.abort();
    this.#become("closed");
    for (const id of [...this.#outbox.keys()]) this.#settle(id).reject(error);
    for (const session of this.#sessions.values()) session._leave();
    if (!error.final) return;
    for (const target of [this, ...this.#sessions.values()]) tell(target, "error", { error });
  }

  #abandon() {
    const socket = this.#socket;
    this.#socket = null; // first: its close event no longer matters
    this.#welcomed = false;
    clearTimeout(this.#renewing);
    this.#token = this.#asking = this.#renewing = null;
    for (const request of this.#outbox.values()) request.sent = false;
    for (const session of this.#sessions.values()) session._pause();
    socket?.close();
  }

  #become(state) {
    if (state === this.state) return;
    this.state = state;
    tell(this, "state", { state });
  }
}

const REFUSALS = { 4401: "token_expired", 4501: "unauthenticated", 4503: "forbidden", 4505: "bad_message" };

/** The gateway's ws or wss address; without `url`, that of the gateway that served this module. */
function address(url = new URL(".", import.meta.url)) {
  const found = new URL(url, globalThis.location?.href ?? import.meta.url);
  found.protocol = found.protocol.replace("http", "ws");
  if (!found.pathname.endsWith("/v1/ws")) found.pathname = found.pathname.replace(/\/*$/, "/v1/ws");
  found.hash = "";
  return found.href;
}

/** The relay's address for people and for plain HTTP: without its path and anything that may be secret. */
function http(url) {
  const found = new URL(url);
  const path = found.pathname.replace(/\/v1\/ws$/, "");
  return `${found.protocol.replace("ws", "http")}//${found.host}${path}`;
}

/** Why no WebSocket opens, as far as a page can know: browsers do not show the answer to a handshake. */
async function diagnosis(relay, closed) {
  const asking = new AbortController();
  const abort = () => asking.abort();
  const timer = setTimeout(abort, PROBE_MS);
  closed.addEventListener("abort", abort, { once: true, signal: asking.signal });
  try {
    return await cause(relay, asking.signal);
  } finally {
    clearTimeout(timer);
    abort(); // also drops the unread rest of the responses
  }
}

async function cause(relay, signal) {
  const ask = (mode) => fetch(`${relay}/healthz`, { mode, cache: "no-store", credentials: "omit", signal });
  const origin = globalThis.location?.origin;
  try {
    const { ok, status, headers } = await ask("cors");
    return ok && headers.get("content-type")?.startsWith("application/json")
      ? `The relay at ${relay} answers, but no WebSocket to it opens. A proxy before it may not pass WebSockets on, or not the Host that was asked for.`
      : `What answers at ${relay} is no relay, or a proxy without one behind it (HTTP ${status}).`;
  } catch {
    // nobody answers, or this page may not read the answer
  }
  try {
    if (origin != null && (await ask("no-cors")))
      return `${relay} answers, but not to pages of ${origin}. RELAY_ALLOWED_ORIGINS of the relay may not name that origin.`;
  } catch {
    // nobody is there
  }
  const causes = origin == null ? "or the relay down." : "the relay down, or the page's Content-Security-Policy in the way.";
  return `Nothing answers at ${relay}. The address may be wrong, ${causes}`;
}
