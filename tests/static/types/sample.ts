// Everything that a page can import, used as a page would; and what has to be refused.

import {
  connect, crc32, Generation, Relay, RelayError, Session, SessionView,
  type Accepted, type AnyWebSocket, type Cursor, type Data, type End, type Message, type ModelOptions, type Options,
  type RelayEvents, type RelayState, type SessionEvents, type Submit,
} from "./relay-client.js";

class Socket implements AnyWebSocket {
  readyState = 0;
  onopen: ((event: Event) => void) | null = null;
  onmessage: ((event: MessageEvent) => void) | null = null;
  onclose: ((event: CloseEvent) => void) | null = null;
  onerror: ((event: Event) => void) | null = null;
  constructor(readonly url: string, readonly protocol: string) {}
  send(_: string): void {}
  close(): void {}
}

const options: Options = { token: async () => "secret", codec: "json", WebSocket: Socket };
const relay: Relay = connect("https://relay.example.com", options);
const browsers: Relay = connect(new URL("https://relay.example.com"), { token: "secret", WebSocket });
const named: Relay = new Relay();

const saved: Cursor = { epoch: "e", seq: 1 };
const session: Session = relay.session("chat-1");
const live: Session = relay.session("chat-2", { from: "live" });
const resumed: Session = relay.session("chat-3", { cursor: saved });

relay.addEventListener("state", ({ detail }: CustomEvent<RelayEvents["state"]>) => {
  const state: RelayState = detail.state;
  console.log(state, relay.state, relay.limits["max_content_bytes"]?.toFixed(), relay.trouble?.length);
  console.log(relay.features.includes("options"));
});
relay.addEventListener("trouble", ({ detail }) => console.log(detail.trouble.length));
relay.addEventListener("error", ({ detail: { error } }) => {
  if (error instanceof RelayError) console.log(error.code, error.retryable, error.retry_after_s?.toFixed(), error.final);
  else console.log(error.message);
});

function show(answer: Generation): string {
  const question: Message | null = answer.message;
  const end: End | null = answer.end;
  const notes: readonly Data[] = answer.data;
  const parts: readonly (string | Data)[] = answer.parts;
  const told = [answer.generation, answer.state, answer.detail, answer.text, answer.reasoning, question?.message_id];
  const numbers: number[] = [answer.attempt, answer.count, end?.count ?? 0, end?.usage?.output_tokens ?? 0, notes[0]?.at ?? 0];
  const flags: boolean[] = [answer.partial, answer.unproven, answer.running, end?.error?.retryable ?? false];
  return JSON.stringify([told, numbers, flags, parts, answer.texts, answer.reasonings, end?.timings_ms?.total, end?.result]);
}

session.addEventListener("change", ({ detail }: CustomEvent<SessionEvents["change"]>) => {
  for (const name of detail.generations) {
    const answer = session.generations.get(name);
    if (answer) console.log(show(answer), detail.catchup);
  }
});
session.addEventListener("end", ({ detail }) => console.log(detail.generation, detail.end.reason, detail.catchup));
session.addEventListener("interrupted", ({ detail }) => console.log(detail.generation.length));
session.addEventListener("lost", ({ detail }) => console.log(detail.generation.length));
session.addEventListener("error", ({ detail }) => console.log(detail.error.code));
session.addEventListener("deleted", ({ detail }) => console.log(detail));
const listener = (): void => {};
session.removeEventListener("change", listener);
relay.removeEventListener("state", listener);

export async function ask(): Promise<string> {
  const question: Submit = {
    content: "Hello", request_id: "r1", queue: "default", mode: "chat", priority: "high", provider: "demo", model: "m",
    max_tokens: 10, system: "Be brief.", metadata: { page: 1 }, options: { temperature: 0.2, stop: "END" },
  };
  const more: ModelOptions = { top_p: 0.9, stop: ["a", "b"], seed: 7, effort: "low" };
  const accepted: Accepted = await session.submit(question, { signal: new AbortController().signal });
  await live.submit({ messages: [{ role: "user", content: "Hello" }], schema: {}, options: more });
  await resumed.submit({ retry_of: accepted.generation });
  const stopped: { generation: string; already_ended: boolean } = await session.stop(accepted.generation);
  const cursor: Cursor | null = session.cursor;
  const flags: boolean[] = [session.resumed, session.rebuilding, session.following, session.degraded, accepted.duplicate];
  const refused: RelayError | null = session.refused;
  const turns: Message[] = session.messages;
  session.unsubscribe();
  for (const one of [relay, browsers, named]) one.close();
  return JSON.stringify([stopped, cursor, flags, refused?.code, turns, session.name, accepted.ignored]);
}

const view = new SessionView("chat-1", "subscribe-");
view.resume(saved);
view.expect("g1", null);
const outcome: "applied" | "dropped" | "gap" | "mismatch" = view.apply(view.subscribe("live"));
view.forget();
const gone: string[] = view.giveUp(view.missing);
export const rules = [
  outcome, gone, view.session, view.epoch, view.last, view.head, view.waiting, view.cursor, view.resumed, view.pending,
  view.messages, view.generations, view.rebuilding, view.interrupted, view.lost, view.doubtful,
];
export const checksum: number = crc32(new Uint8Array([1]));

// @ts-expect-error an address is no number
connect(8080);
// @ts-expect-error there is no such codec
connect("https://relay.example.com", { codec: "msgpack" });
// @ts-expect-error from the start, or live
relay.session("chat-1", { from: "end" });
// @ts-expect-error a cursor is a place of the log, and no number
relay.session("chat-1", { cursor: 7 });
// @ts-expect-error there is no such mode
void session.submit({ content: "Hello", mode: "poem" });
// @ts-expect-error no such field
void session.submit({ text: "Hello" });
// @ts-expect-error no such effort
void session.submit({ content: "Hello", options: { effort: "max" } });
// @ts-expect-error a generation has a name
void session.stop(1);
// @ts-expect-error what is shown is read-only
session.messages = [];
// @ts-expect-error `end` tells one generation, `change` some
session.addEventListener("end", ({ detail }) => detail.generations);
// @ts-expect-error the state is one of four
relay.addEventListener("state", ({ detail }) => detail.state === "broken");
