"""A fake of both APIs at a steady pace, in a process of its own, written so that it is not what is measured.

    python -m tests.bench.steady_provider API TOKENS_PER_SECOND

It prints its port, then reads orders from stdin, a line each, and answers each with a line of JSON:
    expect N    once N answers are running
    window      how late tokens were sent since the last order, against their own schedule
    end         ends all answers; the texts that were sent, by their questions

A token's text is the moment of its sending. Answers take turns within the interval, as real ones would.
"""

from __future__ import annotations

import heapq
import json
import selectors
import socket
import sys
import time
from itertools import count
from typing import Any

from tests.bench.recorded import HEADERS, LAST_CHUNK, RECORDED, Recorded, chunked

STAMP_HZ = 10_000
STAMP_WRAP = 10_000_000  # ticks after which stamps begin again: 1000 s
TEXT_BYTES = 8


def stamp(now_s: float) -> bytes:
    """A token's text: a space and when it was sent."""
    return b" %07d" % (int(now_s * STAMP_HZ) % STAMP_WRAP)


def age_s(token: str, now_s: float) -> float:
    """How long ago a token was sent; `now_s` by `time.monotonic`, which all processes share (Linux)."""
    return (int(now_s * STAMP_HZ) - int(token)) % STAMP_WRAP / STAMP_HZ


class _Answer:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.request = b""
        self.question = ""
        self.due_s = 0.0
        self.tokens: list[bytes] = []
        self.unsent = b""

    def send(self, data: bytes) -> None:
        """Never waits: what the kernel does not take is sent before what comes next."""
        data = self.unsent + data
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        self.unsent = data[sent:]


class SteadyProvider:
    def __init__(self, recorded: Recorded, interval_s: float) -> None:
        self._recorded = recorded
        self._interval_s = interval_s
        event = chunked(recorded.event(b"?" * TEXT_BYTES))
        self._before, self._after = event.split(b"?" * TEXT_BYTES)
        self._selector = selectors.DefaultSelector()
        self._answers: set[_Answer] = set()
        self._due: list[tuple[float, int, _Answer]] = []
        self._numbers = count()
        self._expected: int | None = None
        self._late_s: list[float] = []
        self._ending: list[_Answer] | None = None

    def serve(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(sys.stdin.buffer, selectors.EVENT_READ, self._order)
        _say({"port": listener.getsockname()[1]})
        while True:
            wait_s = self._due[0][0] - time.monotonic() if self._due else None
            for key, _ in self._selector.select(wait_s):
                key.data(key.fileobj)
            self._send_due()
            if self._ending is not None:
                self._end()

    def _accept(self, listener: socket.socket) -> None:
        sock, _ = listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = _Answer(sock)
        self._selector.register(sock, selectors.EVENT_READ, lambda _: self._read(answer))

    def _read(self, answer: _Answer) -> None:
        try:
            data = answer.sock.recv(65_536)
        except ConnectionError:
            data = b""
        if not data:
            self._selector.unregister(answer.sock)
            answer.sock.close()
            self._answers.discard(answer)
            return
        answer.request += data
        head, found, body = answer.request.partition(b"\r\n\r\n")
        if not found or len(body) < _content_length(head):
            return
        answer.request = b""
        answer.question = _question(json.loads(body))
        self._begin(answer)

    def _begin(self, answer: _Answer) -> None:
        answer.tokens = []
        answer.send(HEADERS + chunked(self._recorded.opening))
        self._answers.add(answer)
        number = next(self._numbers)
        answer.due_s = time.monotonic() + number * 0.618 % 1 * self._interval_s
        heapq.heappush(self._due, (answer.due_s, number, answer))
        self._tell_expected()

    def _send_due(self) -> None:
        while self._due and self._due[0][0] <= (now_s := time.monotonic()):
            due_s, number, answer = heapq.heappop(self._due)
            if answer not in self._answers:
                continue
            self._late_s.append(now_s - due_s)
            text = stamp(now_s)
            answer.tokens.append(text)
            answer.send(self._before + text + self._after)
            heapq.heappush(self._due, (due_s + self._interval_s, number, answer))

    def _order(self, stdin: Any) -> None:
        line = stdin.readline().split()
        if not line:
            sys.exit()
        if line[0] == b"expect":
            self._expected = int(line[1])
            self._tell_expected()
        elif line[0] == b"window":
            late_s, self._late_s = sorted(self._late_s), []
            _say({"tokens": len(late_s), "late_p95_s": late_s[len(late_s) * 95 // 100] if late_s else 0.0})
        else:
            self._ending = list(self._answers)
            self._answers.clear()
            self._due.clear()
            for answer in self._ending:
                answer.send(chunked(self._recorded.closing) + LAST_CHUNK)

    def _tell_expected(self) -> None:
        if self._expected is not None and len(self._answers) >= self._expected:
            self._expected = None
            self._late_s.clear()
            _say({"running": len(self._answers)})

    def _end(self) -> None:
        """What readers were too slow for is still on its way."""
        ending = self._ending or []
        for answer in ending:
            answer.send(b"")
        if any(answer.unsent for answer in ending):
            time.sleep(0.01)
            self._due = [(time.monotonic() + 0.01, -1, _NOBODY)]
            return
        self._due.clear()
        self._ending = None
        _say({answer.question: b"".join(answer.tokens).decode() for answer in ending})


_NOBODY = _Answer(socket.socket())


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _question(body: Any) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _say(said: Any) -> None:
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    SteadyProvider(RECORDED[sys.argv[1]], 1 / float(sys.argv[2])).serve()
