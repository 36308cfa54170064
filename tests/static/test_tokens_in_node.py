"""The browser client's tokens: presented, renewed, refused; how often its function is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.static.test_relay_client_in_node import manual

# `tokens`: what the function gives, one after the other, the last one again and again; an Error is thrown.
ASKED = """
    let asked = 0;
    const fresh = (...tokens) => async () => {
      const given = tokens[Math.min(asked++, tokens.length - 1)];
      if (given instanceof Error) throw given;
      return given;
    };
    const began = Date.now();
    let passed = 0;
    Date.now = () => began + passed;
    const begin = (token) => {
      const relay = connect("https://relay.test", { WebSocket: Socket, token });
      const told = ({ code = null, final = null, message }) => say([code, final, message]);
      relay.addEventListener("error", ({ detail }) => told(detail.error));
      return relay;
    };
    const welcome = { type: "welcome", heartbeat_s: 15, limits: {} };
    const opened = async (welcomes = true) => { // the newest; as where the relay waits for `hello`
      const socket = sockets.at(-1);
      socket.readyState = 1;
      socket.onopen({});
      await settled();
      if (welcomes) socket.says(welcome);
      return socket;
    };
    const refused = (socket, code) => (socket.readyState = 3, socket.onclose({ code, reason: "No." }));
    /** The timer of a refresh: the newest. */
    const fire = async () => { const [id, { act }] = [...timers].at(-1); timers.delete(id); act(); await settled(); };
    const lasts = () => (passed += 3_000);
"""


def story(directory: Path, script: str, given: Any = None) -> list[Any]:
    return manual(directory, ASKED + script, given)


def test_a_token_is_the_first_word_and_asked_for_while_the_connection_opens(tmp_path: Path) -> None:
    said = story(
        tmp_path,
        """
        const relay = begin(fresh("first", "second"));
        const session = relay.session("s");
        await settled();
        say([asked, sockets[0].sent]);
        const socket = await opened(false);
        say(socket.sent);
        socket.says(welcome);
        say(socket.sent.map(({ type }) => type));
        relay.close();
        """,
    )
    hello = {"type": "hello", "id": "hello", "token": "first"}
    assert said == [[1, []], [hello], ["hello", "subscribe"]]


def test_nothing_is_said_before_a_token_that_is_late(tmp_path: Path) -> None:
    said = story(
        tmp_path,
        """
        const listeners = {};
        globalThis.addEventListener = (type, act) => (listeners[type] = act);
        let give;
        const relay = begin(() => new Promise((resolve) => (give = resolve)));
        relay.session("s").unsubscribe();
        const answer = relay.session("t").submit({ content: "?" });
        const socket = await opened(false);
        listeners.online(); // would send a ping
        say(socket.sent);
        give("late");
        await settled();
        say(socket.sent.map(({ type }) => type));
        socket.says(welcome);
        say(socket.sent.map(({ type }) => type));
        answer.catch(() => {});
        relay.close();
        """,
    )
    assert said == [[], ["hello"], ["hello", "subscribe", "submit"]]


@pytest.mark.parametrize("late", [False, True])
def test_a_function_that_is_slow_is_no_refusal_and_is_told(tmp_path: Path, late: bool) -> None:
    said = story(
        tmp_path,
        """
        const gives = [];
        const relay = begin(() => new Promise((resolve) => gives.push(resolve)));
        for (let tries = 0; tries < 3; tries++) {
          const socket = await opened(false);
          if (given) refused(socket, 4501); // no hello in time
          else {
            passed += 11_000;
            for (const { act, ms } of [...timers.values()]) if (ms === 1_000) act();
          }
          gives.at(-1)("too late");
          await settled();
          say([relay.state, socket.sent.length]);
          retry();
        }
        relay.close();
        """,
        late,
    )
    error = [] if late else [[None, None, "token() has given none within 10 s."]]
    assert said == [*error, ["connecting", 0]] * 3


@pytest.mark.parametrize("code", [4401, 4501])
def test_a_refused_token_is_replaced_once_and_what_waits_goes_out_then(tmp_path: Path, code: int) -> None:
    said = story(
        tmp_path,
        """
        const relay = begin(fresh("old", "new"));
        const answer = relay.session("s").submit({ content: "?" });
        refused(await opened(false), given);
        retry();
        const socket = await opened();
        say([asked, socket.sent.map(({ type, token }) => token ?? type)]);
        socket.says({ type: "accepted", id: socket.sent.at(-1).id, session: "s", generation: "g1", duplicate: false });
        say((await answer).generation);
        relay.close();
        """,
        code,
    )
    assert said == [[2, ["new", "subscribe", "submit"]], "g1"]


@pytest.mark.parametrize(("code", "name"), [(4401, "token_expired"), (4501, "unauthenticated")])
def test_a_second_token_that_is_refused_is_the_end(tmp_path: Path, code: int, name: str) -> None:
    said = story(
        tmp_path,
        """
        const relay = begin(fresh("old", "new", "never asked for"));
        const answer = relay.session("s").submit({ content: "?" });
        refused(await opened(false), given);
        retry();
        refused(await opened(false), given);
        say(await answer.catch(({ code }) => code));
        say([asked, sockets.length, timers.size, relay.state]);
        """,
        code,
    )
    assert said == [[name, True, "No."], name, [2, 2, 0, "closed"]]


@pytest.mark.parametrize("token", ["secret", None])
@pytest.mark.parametrize(("code", "name"), [(4401, "token_expired"), (4501, "unauthenticated")])
def test_a_string_that_is_refused_is_the_end_at_once(tmp_path: Path, code: int, name: str, token: str | None) -> None:
    said = story(
        tmp_path,
        """
        const relay = begin(given[1] ?? undefined);
        refused(await opened(given[1] === null), given[0]);
        say([sockets.length, timers.size, relay.state]);
        """,
        [code, token],
    )
    assert said == [[name, True, "No."], [1, 0, "closed"]]


def test_a_person_who_was_revoked_does_not_come_back(tmp_path: Path) -> None:
    said = story(
        tmp_path,
        """
        const relay = begin(fresh("first", "second"));
        refused(await opened(), 4503);
        say([asked, sockets.length, timers.size, relay.state]);
        """,
    )
    assert said == [["forbidden", True, "No."], [1, 1, 0, "closed"]]


def test_an_answer_goes_on_with_its_cursor_after_its_token_has_expired(tmp_path: Path) -> None:
    said = story(
        tmp_path,
        """
        const tokens = (seq, index, text) =>
          ({ type: "tokens", session: "s", seq, generation: "g1", attempt: 1, index, count: 1, text });
        const subscribed = (socket, at, recovered) => socket.says({
          type: "subscribed", id: socket.sent.at(-1).id, session: "s", epoch: "e1", at, head: at, recovered, active: [],
        });
        const relay = begin(fresh("first", "second", "third"));
        const session = relay.session("s");
        let socket = await opened();
        subscribed(socket, 0, false);
        socket.says(tokens(1, 0, "Hé"));
        socket.says({ type: "token_expiring", expires_in_s: 60 });
        await fire();
        say(socket.sent.at(-1));
        socket.says({ type: "error", id: "refresh", code: "forbidden", message: "Another's.", retryable: false });
        socket.says(tokens(2, 1, "ll"));
        say([relay.state, session.generations.get("g1").text]);
        lasts();
        refused(socket, 4401);
        retry();
        socket = await opened();
        say([socket.sent[0].token, socket.sent[1].cursor]);
        subscribed(socket, 2, true);
        socket.says(tokens(3, 2, "o"));
        say([session.generations.get("g1").text, asked, sockets.length]);
        lasts();
        refused(socket, 4401); // much later: the first of its own
        retry();
        await opened();
        say([relay.state, asked]);
        relay.close();
        """,
    )
    assert said == [
        {"type": "refresh", "id": "refresh", "token": "second"},
        ["forbidden", False, "Another's."],
        ["open", "Héll"],
        ["third", {"epoch": "e1", "seq": 2}],
        ["Héllo", 3, 2],
        ["open", 4],
    ]


def test_tokens_that_are_welcomed_and_at_once_refused_are_not_asked_for_in_a_loop(tmp_path: Path) -> None:
    said = story(
        tmp_path,
        """
        const relay = begin(fresh("first", "second", "third"));
        refused(await opened(), 4401);
        retry();
        refused(await opened(), 4401);
        say([asked, sockets.length, relay.state]);
        """,
    )
    assert said == [["token_expired", True, "No."], [2, 2, "closed"]]


def test_short_connections_that_brought_something_are_made_again_ever_more_slowly(tmp_path: Path) -> None:
    said = story(
        tmp_path,
        """
        const relay = begin(fresh("first"));
        relay.session("s");
        for (let tries = 0; tries < 4; tries++) {
          const socket = await opened();
          socket.says({ type: "status", session: "s", seq: 1, generation: "g1", attempt: 1, state: "thinking" });
          refused(socket, 4401);
          say([waits(), relay.state]);
          retry();
        }
        relay.close();
        """,
    )
    assert said == [[[ms], "reconnecting"] for ms in (75, 150, 300, 600)]


@pytest.mark.parametrize("old", ['"first"', "null", 'new Error("not now")'])
def test_a_function_without_news_is_asked_again_before_the_end(tmp_path: Path, old: str) -> None:
    said = story(
        tmp_path,
        f"""
        const relay = begin(fresh("first", {old}, {old}, "second"));
        const socket = await opened();
        socket.says({{ type: "token_expiring", expires_in_s: 60 }});
        for (let tries = 0; tries < 3; tries++) {{
          say(waits());
          passed += waits().at(-1);
          await fire();
        }}
        say([asked, waits(), socket.sent.filter(({{ type }}) => type === "refresh").map(({{ token }}) => token)]);
        relay.close();
        """,
    )
    errors = [line for line in said if line == [None, None, "not now"]]
    assert len(errors) == (2 if "Error" in old else 0)
    assert [line for line in said if line not in errors] == [[0], [30_000], [15_000], [4, [], ["second"]]]


def test_a_function_that_only_has_the_old_token_is_asked_a_few_times(tmp_path: Path) -> None:
    said = story(
        tmp_path,
        """
        const relay = begin(fresh("first"));
        const socket = await opened();
        socket.says({ type: "token_expiring", expires_in_s: 60 });
        while (waits().length) { passed += waits()[0]; await fire(); }
        say([asked, socket.sent.length]);
        socket.says({ type: "token_expiring" });
        await fire();
        say([asked, waits()]);
        relay.close();
        """,
    )
    assert said == [[8, 1], [9, []]]


def test_refreshes_do_not_chase_a_relay_that_never_has_enough(tmp_path: Path) -> None:
    said = story(
        tmp_path,
        """
        const relay = begin(fresh("0", "1", "2", "3"));
        const socket = await opened();
        const expiring = () => {
          for (let times = 0; times < 20; times++) socket.says({ type: "token_expiring", expires_in_s: 9 });
        };
        expiring();
        await fire();
        expiring();
        say([asked, [...timers.values()].filter(({ ms }) => ms === 1_000).length]); // the refresh; a look at the clock
        socket.fails(["close"]);
        say(waits()); // the next connection alone
        retry();
        await opened();
        say([asked, relay.state]);
        relay.close();
        say(timers.size);
        """,
    )
    assert said == [[2, 2], [75], [3, "open"], 0]


@pytest.mark.parametrize("code", ["unauthenticated", "token_expired", "forbidden"])
def test_a_command_that_its_token_does_not_allow_is_refused_with_the_code(tmp_path: Path, code: str) -> None:
    said = story(
        tmp_path,
        """
        const relay = begin("secret");
        const answer = relay.session("s").submit({ content: "?" });
        const socket = await opened();
        const { id } = socket.sent.at(-1);
        socket.says({ type: "error", id, session: "s", code: given, message: "No.", retryable: false });
        say(await answer.catch(({ code }) => code));
        say(relay.state);
        relay.close();
        """,
        code,
    )
    assert said == [code, "open"]


def test_who_has_no_token_greets_a_relay_that_says_nothing_and_no_connection_that_is_lost(tmp_path: Path) -> None:
    said = story(
        tmp_path,
        """
        const look = () => [...timers.values()].find(({ ms }) => ms === 1_000).act(); // what it does each second
        const relay = begin(null);
        await settled();
        look();
        const socket = await opened(false);
        look();
        say(socket.sent);
        lasts();
        look();
        look();
        say(socket.sent);
        socket.onclose({ code: 1006, reason: "" });
        lasts();
        look(); // there is none until the next try
        retry();
        await settled();
        const again = await opened();
        lasts();
        look();
        say(again.sent);
        again.onclose({ code: 1006, reason: "" });
        lasts();
        look(); // nor here, where none was sent before
        retry();
        await settled();
        sockets.at(-1).readyState = 1;
        sockets.at(-1).onopen({});
        sockets.at(-1).readyState = 3; // it has failed, and is told so later
        lasts();
        look();
        say(sockets.at(-1).sent);
        relay.close();
        """,
    )
    assert said == [[], [{"type": "hello", "id": "hello"}], [], []]


def test_a_refresh_that_the_relay_cannot_judge_just_now_is_sent_again(tmp_path: Path) -> None:
    said = story(
        tmp_path,
        """
        const relay = begin(fresh("first", "second"));
        const socket = await opened();
        socket.says({ type: "token_expiring", expires_in_s: 30 });
        await fire();
        const notNow = { type: "error", id: "refresh", code: "unavailable", message: "Not now.", retryable: true };
        socket.says(notNow);
        lasts();
        await fire();
        say(socket.sent.filter(({ type }) => type === "refresh").map(({ token }) => token));
        passed += 30_000;
        socket.says(notNow); // too late
        say(waits());
        relay.close();
        """,
    )
    assert said == [["second", "second"], []]
