"""The browser client's connection in Node: without a WebSocket, and with each kind that tells a failure differently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.static import javascript

ORDERS = {"as browsers tell it": ["error", "close"], "as Node 22 does": ["error"], "with a close alone": ["close"]}
ALIVE = {"ok": True, "status": 200, "type": "application/json"}


def run(directory: Path, script: str, given: Any = None) -> list[Any]:
    """What a script says, once its process has ended by itself."""
    source = f"const given = {json.dumps(given)};\n{script}"
    return javascript.run(directory, 'import { connect } from "./relay-client.mjs";\n' + source)


def manual(directory: Path, script: str, given: Any = None) -> list[Any]:
    """On a clock that stands still."""
    names = "Socket, retry, say, settled, sockets, timers, waits"
    return run(directory, f'import {{ {names} }} from "./manual.mjs";\n{script}', given)


def test_without_a_websocket_connect_names_the_option_and_leaves_nothing(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
        delete globalThis.WebSocket;
        class Refuses { constructor() { throw new Error("not from this page"); } }
        for (const options of [undefined, { WebSocket: Refuses }]) {
          try { connect("http://127.0.0.1:1", options); } catch (error) { console.log(JSON.stringify(error.message)); }
        }
        """,
    )
    assert said == [
        "There is no WebSocket here (Node has one from 22 on): hand one over, as connect(url, { WebSocket }).",
        "not from this page",
    ]


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_handshake_that_fails_is_followed_by_one_more_try_at_once(tmp_path: Path, order: list[str]) -> None:
    said = manual(
        tmp_path,
        """
        const relay = connect("http://relay.test", { WebSocket: Socket });
        sockets[0].fails(given);
        say(waits());
        retry();
        say([sockets.length, waits()]);
        sockets[0].fails(given); // late, and of no interest
        say([sockets.length, waits(), relay.state]);
        sockets[1].open();
        say([relay.state, waits()]);
        """,
        order,
    )
    assert said == [[75], [2, []], [2, [], "connecting"], ["open", []]]


@pytest.mark.parametrize("order", [["error", "close"], ["close"]], ids=str)
def test_of_an_open_connection_the_close_code_is_waited_for(tmp_path: Path, order: list[str]) -> None:
    said = manual(
        tmp_path,
        """
        const relay = connect("http://relay.test", { WebSocket: Socket });
        relay.addEventListener("error", ({ detail }) => say(detail.error.code));
        sockets[0].open();
        sockets[0].fails(given, 4503);
        say([relay.state, timers.size]);
        """,
        order,
    )
    assert said == ["forbidden", ["closed", 0]]


def test_an_open_connection_that_fails_without_a_close_is_given_up_soon(tmp_path: Path) -> None:
    said = manual(
        tmp_path,
        """
        const began = Date.now();
        const relay = connect("http://relay.test", { WebSocket: Socket });
        sockets[0].open();
        sockets[0].fails(["error"]);
        say([relay.state, waits()]);
        for (const passed of [3_000, 5_000]) {
          Date.now = () => began + passed;
          for (const { act, ms } of [...timers.values()]) if (ms === 1_000) act();
          say([relay.state, waits()]);
        }
        """,
    )
    assert said == [["open", []], ["open", []], ["reconnecting", [75]]]


@pytest.mark.parametrize(("heartbeat_s", "silence_s"), [(15, 35), (1, 3)])
def test_silence_is_two_heartbeats_and_a_margin(tmp_path: Path, heartbeat_s: float, silence_s: float) -> None:
    said = manual(
        tmp_path,
        """
        const began = Date.now();
        Date.now = () => began;
        const relay = connect("http://relay.test", { WebSocket: Socket });
        sockets[0].open();
        sockets[0].says({ type: "welcome", heartbeat_s: given[0], limits: {} });
        for (const passed of [given[1] * 1_000, given[1] * 1_000 + 1]) {
          Date.now = () => began + passed;
          for (const { act, ms } of [...timers.values()]) if (ms === 1_000) act();
          say(relay.state);
        }
        """,
        [heartbeat_s, silence_s],
    )
    assert said == ["open", "reconnecting"]


def test_the_features_are_those_of_the_server_that_was_reached_last(tmp_path: Path) -> None:
    said = manual(
        tmp_path,
        """
        const relay = connect("http://relay.test", { WebSocket: Socket });
        say(relay.features);
        sockets[0].open();
        for (const features of [["options"], undefined]) {
          sockets[0].says({ type: "welcome", heartbeat_s: 15, limits: {}, features });
          say(relay.features);
        }
        """,
    )
    assert said == [[], ["options"], []]


def test_a_websocket_that_throws_later_is_a_try_that_failed(tmp_path: Path) -> None:
    said = manual(
        tmp_path,
        """
        let broken = false;
        class Sometimes extends Socket {
          constructor(...given) {
            if (broken) throw new Error("no more sockets");
            super(...given);
          }
        }
        const relay = connect("http://relay.test", { WebSocket: Sometimes });
        relay.addEventListener("error", ({ detail }) => say(detail.error.message));
        sockets[0].fails(["close"]);
        broken = true;
        retry();
        say([sockets.length, waits()]);
        broken = false;
        retry();
        sockets[1].open();
        say(relay.state);
        """,
    )
    assert said == ["no more sockets", [1, [150]], "open"]


TROUBLES: list[tuple[dict[str, Any], str]] = [
    (
        {"cors": ALIVE},
        "The relay at https://relay.test/x answers, but no WebSocket to it opens. A proxy before it may not pass"
        " WebSockets on, or not the Host that was asked for.",
    ),
    (
        {"cors": {"ok": False, "status": 502, "type": "text/html"}},
        "What answers at https://relay.test/x is no relay, or a proxy without one behind it (HTTP 502).",
    ),
    (
        {"cors": {"ok": True, "status": 200, "type": "text/html"}},
        "What answers at https://relay.test/x is no relay, or a proxy without one behind it (HTTP 200).",
    ),
    (
        {"no-cors": ALIVE},
        "https://relay.test/x answers, but not to pages of https://page.test. RELAY_ALLOWED_ORIGINS of the relay may"
        " not name that origin.",
    ),
    (
        {},
        "Nothing answers at https://relay.test/x. The address may be wrong, the relay down, or the page's"
        " Content-Security-Policy in the way.",
    ),
]


@pytest.mark.parametrize(("answers", "words"), TROUBLES)
def test_after_some_tries_that_failed_the_trouble_is_told_once(
    tmp_path: Path, answers: dict[str, Any], words: str
) -> None:
    said = manual(
        tmp_path,
        """
        const asked = [];
        globalThis.location = new URL("https://page.test/chat");
        globalThis.fetch = async (url, { mode, signal }) => {
          asked.push([`${url}`, mode]);
          const { ok, status, type } = given[mode] ?? (() => { throw new TypeError("Failed to fetch"); })();
          return { ok, status, headers: new Headers({ "content-type": type }) };
        };
        const relay = connect("https://ann:secret@relay.test/x?ticket=secret", { WebSocket: Socket });
        relay.addEventListener("trouble", ({ detail }) => say(detail.trouble));
        const fail = async () => (sockets.at(-1).fails(["error", "close"]), await settled());
        for (let tries = 1; tries <= 13; tries++) {
          await fail();
          if (tries === 2) say([relay.trouble, asked.length]);
          retry();
        }
        say([relay.trouble, asked.slice(0, 2), relay.state]);
        sockets.at(-1).open();
        say(relay.trouble);
        await fail();
        say([relay.trouble, relay.state]);
        relay.close();
        say(timers.size);
        """,
        answers,
    )
    modes = ["cors", "no-cors"] if "cors" not in answers else ["cors", "cors"]
    asked = [["https://relay.test/x/healthz", mode] for mode in modes]
    assert said == [[None, 0], words, [words, asked, "connecting"], None, [None, "reconnecting"], 0]


def test_a_trouble_that_was_over_before_it_was_known_is_not_told(tmp_path: Path) -> None:
    said = manual(
        tmp_path,
        """
        let answer, aborted = 0;
        globalThis.fetch = (url, { signal }) => new Promise((_, reject) => {
          signal.addEventListener("abort", () => { aborted++; reject(signal.reason); });
          answer = reject;
        });
        const relay = connect("https://relay.test", { WebSocket: Socket });
        relay.addEventListener("trouble", ({ detail }) => say(detail.trouble));
        for (let tries = 0; tries < 3; tries++) { sockets.at(-1).fails(["close"]); retry(); }
        sockets.at(-1).open();
        answer(new TypeError("Failed to fetch"));
        await settled();
        answer(new TypeError("Failed to fetch"));
        await settled();
        for (let tries = 0; tries < 3; tries++) { sockets.at(-1).fails(["close"]); retry(); }
        await settled();
        relay.close();
        await settled();
        say([relay.trouble, relay.state, aborted > 0, timers.size]);
        """,
    )
    assert said == [[None, "closed", True, 0]]


def test_a_connection_that_is_lost_before_its_welcome_is_a_trouble_with_its_code(tmp_path: Path) -> None:
    said = manual(
        tmp_path,
        """
        const relay = connect("https://relay.test", { WebSocket: Socket });
        relay.addEventListener("trouble", ({ detail }) => say(detail.trouble));
        for (let tries = 0; tries < 3; tries++) {
          sockets.at(-1).onopen({});
          sockets.at(-1).fails(["close"], 1011);
          retry();
        }
        await settled();
        """,
    )
    assert said == [
        "Connections to https://relay.test open, but end before the relay's welcome (close code 1011). What is there"
        " may be no relay, or not want this client."
    ]


def test_a_token_that_cannot_be_had_is_its_own_error_and_no_trouble(tmp_path: Path) -> None:
    said = manual(
        tmp_path,
        """
        const token = () => { throw new Error("no token"); };
        const relay = connect("https://relay.test", { WebSocket: Socket, token });
        relay.addEventListener("trouble", ({ detail }) => say(detail.trouble));
        relay.addEventListener("error", ({ detail }) => say(detail.error.message));
        for (let tries = 0; tries < 3; tries++) {
          sockets.at(-1).onopen({});
          await settled();
          retry();
        }
        relay.close();
        """,
    )
    assert said == ["no token"] * 3


REFUSED = """
    const names = (socket) => socket.sent.filter(({ type }) => type === "subscribe").map(({ session }) => session);
    const subscribed = (socket, name) => {
      const { id } = socket.sent.findLast(({ type, session }) => type === "subscribe" && session === name);
      socket.says({ type: "subscribed", id, session: name, epoch: "e", at: 0, head: 0, recovered: false, active: [] });
    };
    const refuse = (socket, name, code = "too_many_subscriptions") => {
      const { id } = socket.sent.findLast(({ type, session }) => type === "subscribe" && session === name);
      socket.says({ type: "error", id, session: name, code, message: "No.", retryable: false });
    };
    const relay = connect("https://relay.test", { WebSocket: Socket });
    const [a, b, c] = ["a", "b", "c"].map((name) => relay.session(name));
    for (const session of [a, b, c])
      session.addEventListener("error", ({ detail }) => say([session.name, detail.error.code]));
    b.addEventListener("change", () => say(["change", b.following, b.refused?.code ?? null]));
    sockets[0].open();
    subscribed(sockets[0], "a");
"""


def test_a_session_beyond_the_limit_is_refused_visibly_and_followed_once_there_is_room(tmp_path: Path) -> None:
    said = manual(
        tmp_path,
        REFUSED
        + """
        refuse(sockets[0], "b");
        refuse(sockets[0], "c");
        await settled();
        a.unsubscribe();
        say(names(sockets[0])); // not before the relay says that there is room
        sockets[0].says({ type: "unsubscribed", id: "unsubscribe", session: "a" });
        say(names(sockets[0]));
        subscribed(sockets[0], "b");
        await settled();
        sockets[0].says({ type: "unsubscribed", session: "b" }); // somebody deleted it
        await settled();
        say([names(sockets[0]), b.following, b.refused]);
        refuse(sockets[0], "c"); // the room was taken meanwhile: told once
        await settled();
        sockets[0].says({ type: "unsubscribed", id: "unsubscribe", session: "x" });
        subscribed(sockets[0], "c");
        say([c.following, c.refused, names(sockets[0]).length]);
        """,
    )
    assert said == [
        ["b", "too_many_subscriptions"],
        ["c", "too_many_subscriptions"],
        ["change", False, "too_many_subscriptions"],
        ["a", "b", "c"],
        ["a", "b", "c", "b"],
        ["change", True, None],
        ["change", False, None],
        [["a", "b", "c", "b", "c"], False, None],
        [True, None, 6],
    ]


def test_a_refused_session_can_be_left_asked_in_and_is_tried_again_unless_it_is_forbidden(tmp_path: Path) -> None:
    said = manual(
        tmp_path,
        REFUSED
        + """
        refuse(sockets[0], "b");
        refuse(sockets[0], "c", "forbidden");
        await settled();
        const asked = b.submit({ content: "?" });
        const { id } = sockets[0].sent.at(-1);
        sockets[0].says({ type: "accepted", id, session: "b", generation: "g1", duplicate: false });
        say(await asked);
        sockets[0].says({ type: "unsubscribed", id: "unsubscribe", session: "x" }); // room, but not for a forbidden one
        refuse(sockets[0], "b");
        sockets[0].says({ type: "unsubscribed", id: "unsubscribe", session: "x" });
        say(names(sockets[0]));
        sockets[0].fails(["close"]);
        retry();
        sockets[1].open();
        say(names(sockets[1]));
        refuse(sockets[1], "b");
        b.unsubscribe();
        b.unsubscribe();
        sockets[1].says({ type: "unsubscribed", id: "unsubscribe", session: "b" });
        say([names(sockets[1]), sockets[1].sent.filter(({ type }) => type === "unsubscribe").length]);
        say([b.following, b.refused, relay.session("b") === b]);
        say([c.following, c.refused.code, relay.session("c") === c]);
        """,
    )
    assert said == [
        ["b", "too_many_subscriptions"],
        ["c", "forbidden"],
        ["change", False, "too_many_subscriptions"],
        {"generation": "g1", "duplicate": False},
        ["a", "b", "c", "b", "b"],
        ["a", "b"],
        [["a", "b"], 1],
        [False, None, False],
        [False, "forbidden", False],
    ]


@pytest.mark.parametrize("told", [["temperature"], None])
def test_what_of_a_submit_was_not_understood_is_handed_on(tmp_path: Path, told: list[str] | None) -> None:
    said = manual(
        tmp_path,
        """
        const session = connect("https://relay.test", { WebSocket: Socket }).session("s");
        sockets[0].open();
        const asked = session.submit({ content: "?", temperature: 0.5 });
        const { id, temperature } = sockets[0].sent.at(-1);
        const known = { session: "s", generation: "g1", duplicate: false };
        sockets[0].says({ type: "accepted", id, ...known, ignored: given });
        say([temperature, await asked]);
        """,
        told,
    )
    accepted = {"generation": "g1", "duplicate": False}
    assert said == [[0.5, accepted if told is None else {**accepted, "ignored": told}]]
