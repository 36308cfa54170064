"""The page of docs/clients.md, with a session that does what the test says in place of a relay's."""

from __future__ import annotations

from pathlib import Path

from tests.static import javascript

CLIENTS = Path(__file__).parents[2] / "docs" / "clients.md"
AROUND = """
const session = Object.assign(new EventTarget(), {
  generations: new Map(),
  submit: async () => ({ generation: `g${++session.asked}` }),
  asked: 0,
  stop: async (name) => { session.stopped.push(name); },
  stopped: [],
});
const connect = () => Object.assign(new EventTarget(), { session: () => session });
const stop = new EventTarget();
const form = Object.assign(new EventTarget(), { question: { value: "Hello" }, stop });
const element = () => ({ isConnected: true });
globalThis.document = { querySelector: (what) => (what === "form" ? form : element()), createElement: element };
const happens = (what, type, detail) => what.dispatchEvent(Object.assign(new Event(type), { detail }));
const stopped = async () => {
  session.stopped = [];
  happens(stop, "click");
  console.log(JSON.stringify(session.stopped));
};
const ask = async () => { happens(form, "submit"); await new Promise(setImmediate); };
const becomes = (generation, answer) => {
  session.generations.set(generation, { text: "", ...answer });
  happens(session, "change", { generations: new Set([generation]) });
  if (answer.end) happens(session, "end", { generation, end: answer.end });
};
"""
STORY = """
await stopped();
await ask();
await stopped();
becomes("g1", { state: "streaming" });
await ask();
await stopped();
becomes("g1", { state: "lost" });
becomes("g2", { state: "complete", end: { reason: "complete", count: 1 } });
becomes("elsewhere", { state: "queued" });
await stopped();
"""


def test_its_stop_is_for_whatever_runs_from_the_moment_in_which_it_is_accepted(tmp_path: Path) -> None:
    page = CLIENTS.read_text().split('<script type="module">\n', 1)[1].split("</script>", 1)[0]
    imported, sample = page.split("\n", 1)
    assert imported.strip().startswith("import { connect } from")
    said = javascript.run(tmp_path, AROUND + "{\n" + sample.replace("console.log(", "void (") + "}\n" + STORY)
    assert said == [[], ["g1"], ["g1", "g2"], ["elsewhere"]]
