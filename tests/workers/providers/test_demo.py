"""The demo provider: real prose, the same for the same question, at the pace that was asked for."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest

from relay_workers.providers.base import Finished, Prompt, Text, Turn
from relay_workers.providers.demo import PIECES, DemoProvider
from relay_workers.providers.tokenizing import tokenize


class Clock:
    """Time that passes only while somebody sleeps, and `late_s` longer than asked for, as on a busy machine."""

    def __init__(self, late_s: float = 0.0) -> None:
        self.now_s = 1000.0
        self.naps_s: list[float] = []
        self._late_s = late_s

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.naps_s.append(seconds)
        self.now_s += seconds + self._late_s


def ask(content: str, max_tokens: int | None = None) -> Prompt:
    return Prompt([Turn("system", "Be brief."), Turn("user", content)], max_tokens=max_tokens)


async def answer(
    prompt: Prompt, clock: Clock, tokens_per_second: float = 30
) -> tuple[list[tuple[float, str]], Finished]:
    """Each token with its time since the start, and the finish."""
    provider = DemoProvider(tokens_per_second, clock=clock, sleep=clock.sleep)
    began = clock.now_s
    tokens: list[tuple[float, str]] = []
    finished: list[Finished] = []
    async for part in provider.stream(prompt):
        assert not finished, "a part came after the finish"
        if isinstance(part, Text):
            tokens.append((clock.now_s - began, part.text))
        else:
            assert isinstance(part, Finished)
            finished.append(part)
    await provider.aclose()
    return tokens, finished[0]


async def test_it_writes_a_whole_piece_and_says_so() -> None:
    tokens, finished = await answer(ask("hello"), Clock())

    assert "".join(text for _, text in tokens) in PIECES
    assert finished.finish == "stop"
    assert finished.model == "demo"
    assert finished.usage == {"input_tokens": 3 + 1, "output_tokens": len(tokens)}


async def test_the_same_question_gets_the_same_answer_and_others_get_others() -> None:
    async def text(content: str) -> str:
        return "".join(text for _, text in (await answer(ask(content), Clock()))[0])

    assert await text("hello") == await text("hello")
    assert {await text(f"question {number}") for number in range(100)} == set(PIECES)


async def test_half_a_surrogate_pair_in_the_question_breaks_nothing() -> None:
    tokens, _ = await answer(ask("\ud83d"), Clock())
    assert tokens


async def test_max_tokens_ends_it_with_finish_length() -> None:
    tokens, finished = await answer(ask("hello", max_tokens=7), Clock())

    assert len(tokens) == 7
    assert finished.finish == "length"
    assert finished.usage == {"input_tokens": 4, "output_tokens": 7}


async def test_the_first_token_comes_after_300_ms_and_the_rest_at_the_pace_unevenly_but_alike_each_time() -> None:
    tokens, _ = await answer(ask("hello"), Clock())
    times = [at for at, _ in tokens]
    gaps = [later - earlier for earlier, later in pairwise(times)]

    assert times[0] == pytest.approx(0.3)
    assert times[-1] == pytest.approx(0.3 + (len(tokens) - 1) / 30, abs=1 / 30)
    assert all(0 < gap < 2 / 30 for gap in gaps)
    assert max(gaps) > 1.2 * min(gaps)
    assert (await answer(ask("hello"), Clock()))[0] == tokens


async def test_sleeps_that_last_too_long_do_not_add_up() -> None:
    tokens, _ = await answer(ask("hello"), Clock(late_s=0.02))
    assert tokens[-1][0] == pytest.approx(0.3 + len(tokens) / 30, abs=0.1)


async def test_at_2000_tokens_per_second_several_come_per_wake() -> None:
    clock = Clock()
    tokens, _ = await answer(ask("hello"), clock, tokens_per_second=2000)

    assert tokens[-1][0] == pytest.approx(0.3 + len(tokens) / 2000, abs=0.01)
    assert len(clock.naps_s) < len(tokens) / 4


async def test_a_caller_may_leave_at_any_token() -> None:
    clock = Clock()
    stream = DemoProvider(clock=clock, sleep=clock.sleep).stream(ask("hello"))
    await anext(stream)
    await stream.aclose()
    assert len(clock.naps_s) == 1


@pytest.mark.parametrize("piece", PIECES)
def test_a_piece_is_prose_of_a_good_length_in_tokens_that_join_to_it(piece: str) -> None:
    tokens = list(tokenize(piece))

    assert "".join(tokens) == piece
    assert 90 <= len(piece.split()) <= 200
    assert len(piece.split()) < len(tokens) < 2 * len(piece.split())
    assert piece == piece.strip()


def test_the_pieces_hold_what_a_careless_relay_breaks() -> None:
    text = "".join(PIECES)
    assert "\u200d" in text
    assert "\ufe0f" in text
    assert any(ord(letter) > 0xFFFF for letter in text)
    assert any(unicodedata.combining(letter) for letter in text)
    assert any("\u4e00" <= letter <= "\u9fff" for letter in text)
