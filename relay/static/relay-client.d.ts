/** Types of relay-client.js, the browser client of relay (protocol relay.v1). */

/** Throws if there is no WebSocket here, or the address cannot have one. */
export function connect(url?: string | URL, options?: Options): Relay;

export interface Options {
  /**
   * If the relay asks for one. A function is called for every connection, when the token is about to expire, and once
   * more if it was refused; the second refusal in a row is final. If it throws, that is told as `error`, and it is called
   * again for the next connection. A string is final once it is refused or has expired.
   */
  token?: string | (() => string | Promise<string>);
  /** The only one for now. */
  codec?: "json";
  /** If there is no global one (Node before 22): for example that of the package `ws`. */
  WebSocket?: new (url: string, protocol: string) => AnyWebSocket;
}

/** What the client needs of a WebSocket. */
export interface AnyWebSocket {
  readonly readyState: number;
  onopen: ((event: any) => any) | null;
  onmessage: ((event: any) => any) | null;
  onclose: ((event: any) => any) | null;
  onerror: ((event: any) => any) | null;
  send(text: string): void;
  close(): void;
}

type Listener<Detail> = (event: CustomEvent<Detail>) => void;
type AnyListener = EventListenerOrEventListenerObject | null;

/** `connecting` until the first welcome; `closed` is final. */
export type RelayState = "connecting" | "open" | "reconnecting" | "closed";

export interface RelayEvents {
  state: { state: RelayState };
  /** Several tries in a row have failed: `Relay.trouble` has changed. */
  trouble: { trouble: string };
  /**
   * Errors that belong to no session, and what `token()` threw. With `error.final` the server does not want this client back
   * (close codes 4500 to 4999, and 4401 without a fresh token): the state is `closed`.
   */
  error: { error: RelayError | Error };
}

/** One WebSocket after another, for any number of sessions. It starts to connect when it is made. */
export class Relay extends EventTarget {
  constructor(url?: string | URL, options?: Options);
  readonly state: RelayState;
  /**
   * Why there is no connection, as far as this can be found out: a sentence for the person who sets it up (an address,
   * an origin that is not allowed, a proxy). Null before three tries in a row have failed, and while connected.
   */
  readonly trouble: string | null;
  /** The server's limits by name (bytes, seconds, counts); empty before the first welcome. */
  readonly limits: Record<string, number>;
  /** What the server has beyond the first release of relay.v1, such as `options`; empty before the first welcome. */
  readonly features: readonly string[];
  /**
   * The session of that name, followed from now on; the same object until it is left or deleted. With `from: "live"`
   * only what is written from now on; with a `cursor`, what comes after it, for a page that has the rest already (see
   * `Session.resumed`). Throws RangeError for a malformed name or cursor; Error for a cursor of a session that is
   * followed already.
   */
  session(name: string, options?: { from?: "start" | "live"; cursor?: Cursor | null }): Session;
  /** Final: every promise rejects with `closed`. Does not stop any answer. */
  close(): void;
  addEventListener<Type extends keyof RelayEvents>(
    type: Type,
    listener: Listener<RelayEvents[Type]>,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(type: string, listener: AnyListener, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<Type extends keyof RelayEvents>(
    type: Type,
    listener: Listener<RelayEvents[Type]>,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(type: string, listener: AnyListener, options?: boolean | EventListenerOptions): void;
}

/** A position in a session's log: `{epoch, head}` of `GET /v1/sessions/{session}`, or `Session.cursor` of earlier. */
export interface Cursor {
  epoch: string;
  seq: number;
}

export interface SessionEvents {
  /**
   * What is shown of these generations has changed; at most once per animation frame. With `catchup`, show it at once,
   * without animation. An empty set: `degraded`, `rebuilding` or `refused` has changed.
   */
  change: { generations: Set<string>; catchup: boolean };
  /** After the `change` that shows it; again when the session was rebuilt. */
  end: { generation: string; end: End; catchup: boolean };
  /** The relay has lost this answer; it will come back, or end `failed`. */
  interrupted: { generation: string };
  /** It was interrupted or accepted, and has not come within `limits.lost_after_s`. */
  lost: { generation: string };
  /**
   * A session that may not be followed: `Session.refused` has changed. With `error.retryable` a command was refused for
   * now, and will be sent again by itself: do not show it as a failure.
   */
  error: { error: RelayError };
  /** Somebody deleted the session. It is no longer followed; `relay.session(name)` begins a new one. */
  deleted: Record<string, never>;
}

/** One conversation. What it shows is read-only. */
export class Session extends EventTarget {
  readonly name: string;
  /** The users' turns, in the order of the log. */
  readonly messages: Message[];
  /**
   * In the order of submit; then interrupted ones and the newest 20 that are lost, as they were last shown. A new Map
   * each time.
   */
  readonly generations: Map<string, Generation>;
  /** Of the last event in the state; null before there is any. */
  readonly cursor: Cursor | null;
  /**
   * The state begins after the cursor that was given. An answer that was there has only its text since then here, as
   * long as its `attempt` is the same. False once that cursor could not be honoured: then everything is here, and what
   * belonged to it is void.
   */
  readonly resumed: boolean;
  /** The state is incomplete: the rest is on its way. */
  readonly rebuilding: boolean;
  /** False after `unsubscribe()`, `deleted`, and the relay's close; and while it is `refused`. */
  readonly following: boolean;
  /**
   * Why the relay does not let it be followed, or null. It is tried again over each new connection, and with
   * `too_many_subscriptions` when another session is left or deleted. With `forbidden` it is not: it is over, and
   * `relay.session(name)` begins a new one.
   */
  readonly refused: RelayError | null;
  /** The server cannot reach its store for the moment: no news until it is back. */
  readonly degraded: boolean;
  /**
   * Resolves once the relay has taken the question; `duplicate`: an earlier submit of this `request_id` had; `ignored`:
   * names of the fields that the relay did not understand (at most 20), absent when there are none. Sent again until it
   * is answered, for as long as the page is open, and never makes a second generation. `signal` takes it back while it
   * has not been sent. Rejects with RelayError: `rate_limited` at once where 100 commands wait already; after `closed`
   * it may still have taken effect.
   */
  submit(body: Submit, options?: { signal?: AbortSignal }): Promise<Accepted>;
  /** Resolves once the generation has ended. Sent again until it is answered. Rejects with RelayError. */
  stop(generation: string): Promise<{ generation: string; already_ended: boolean }>;
  /** Stop following. Stops no answer; what is shown stays unchanged. */
  unsubscribe(): void;
  addEventListener<Type extends keyof SessionEvents>(
    type: Type,
    listener: Listener<SessionEvents[Type]>,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(type: string, listener: AnyListener, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<Type extends keyof SessionEvents>(
    type: Type,
    listener: Listener<SessionEvents[Type]>,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(type: string, listener: AnyListener, options?: boolean | EventListenerOptions): void;
}

/** Exactly one of `content`, `messages` and `retry_of`; the rest as in the protocol's `submit`. */
export interface Submit {
  content?: string;
  messages?: { role: "system" | "user" | "assistant"; content: string }[];
  retry_of?: string;
  /** Random if absent. */
  request_id?: string;
  queue?: string;
  mode?: "chat" | "report";
  schema?: object;
  priority?: "low" | "normal" | "high";
  provider?: string;
  model?: string;
  max_tokens?: number;
  system?: string;
  metadata?: Record<string, unknown>;
  options?: ModelOptions;
}

/** How the model is to write, where its API can be told; what is absent is the worker's or the model's own. */
export interface ModelOptions {
  /** 0 to 2. */
  temperature?: number;
  /** Above 0, at most 1. */
  top_p?: number;
  /** One, or 1 to 4; each of 1 to 64 characters. */
  stop?: string | string[];
  /** A safe integer. */
  seed?: number;
  effort?: "low" | "medium" | "high";
}

export interface Accepted {
  generation: string;
  duplicate: boolean;
  ignored?: string[];
}

export interface Message {
  /** Null if the answer was lost before the log had shown its question. */
  message_id: string | null;
  role: string;
  content: string;
  generation: string;
}

/** One answer. */
export class Generation {
  readonly generation: string;
  readonly attempt: number;
  /** The last status, `streaming`, the reason of its end, `interrupted`, or `lost`. */
  readonly state: string;
  /** More on `state`: with `queued`, `no_worker` if no living worker serves its queue. */
  readonly detail: string | null;
  /** Its user turn; null for a `retry_of`. */
  readonly message: Message | null;
  readonly text: string;
  readonly reasoning: string;
  /** The parts of `text` and `reasoning` as they came; new arrays when an attempt begins again. */
  readonly texts: readonly string[];
  readonly reasonings: readonly string[];
  /** What hooks and generators show. */
  readonly data: readonly Data[];
  /** Text as it came and the data among it, in one order; a new array when an attempt begins again. */
  readonly parts: readonly (string | Data)[];
  /** Tokens so far. */
  readonly count: number;
  /** Joined live, or at a cursor: its beginning was not seen, and its checksum is not checked. */
  readonly partial: boolean;
  /** Shown although its checksum does not match, after several rebuilds. */
  readonly unproven: boolean;
  readonly running: boolean;
  readonly end: End | null;
}

/** `at`: the number of tokens before it. */
export interface Data {
  name: string;
  value: unknown;
  at?: number | null;
}

/** PROTOCOL's `end`; fields of later releases may be there too. */
export interface End {
  reason: "complete" | "stopped" | "failed" | "invalid";
  finish?: "stop" | "length" | "filter" | "other" | null;
  count: number;
  text_bytes: number;
  crc32: number;
  provider?: string | null;
  model?: string | null;
  usage?: { input_tokens?: number | null; output_tokens?: number | null } | null;
  timings_ms?: { queued?: number | null; first_token?: number | null; total?: number | null } | null;
  message_id?: string | null;
  result?: unknown;
  error?: { code: string; message: string; retryable: boolean } | null;
  [field: string]: unknown;
}

export class RelayError extends Error {
  /** PROTOCOL's codes, and `closed`. */
  readonly code: string;
  readonly retryable: boolean;
  readonly retry_after_s?: number;
  /** The server does not want this client back. */
  readonly final: boolean;
}

type Frame = Record<string, any>;

/** The rules alone, without a connection: frames in, state out. The same as the server's model of a client. */
export class SessionView {
  constructor(session: string, prefix?: string);
  readonly session: string;
  readonly epoch: string | null;
  readonly last: number;
  readonly head: number;
  readonly waiting: boolean;
  readonly cursor: Cursor | null;
  readonly resumed: boolean;
  /** The id of the unanswered `subscribe`. */
  readonly pending: string | null;
  readonly messages: Message[];
  readonly generations: Map<string, Generation>;
  /** As of the last `subscribed`, the state is incomplete: the rest is on its way. */
  readonly rebuilding: boolean;
  readonly interrupted: Map<string, Generation>;
  /** The newest of those that were given up, as they were shown. */
  readonly lost: Map<string, Generation>;
  /** Answers that the log should have, but has not shown so far. */
  readonly missing: string[];
  readonly doubtful: Set<string>;
  /** It was accepted, so it is missing until its first event. */
  expect(name: string, message?: Message | null): void;
  /** Those of these names that are missing are lost from now on; returns them. */
  giveUp(names: string[]): string[];
  /** Before the first subscribe: begin at a cursor, without the state that belonged to it. */
  resume(cursor: Cursor): void;
  /** The command to send. */
  subscribe(from?: "start" | "live"): Frame;
  forget(): void;
  /** "gap": subscribe again; "mismatch": forget, then subscribe again. */
  apply(frame: Frame): "applied" | "dropped" | "gap" | "mismatch";
}

export function crc32(bytes: Uint8Array): number;
