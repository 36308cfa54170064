"""The app provider: a generator of one's own, what it may yield, how it fails, how it is stopped, how it is found."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.errors import SettingsError
from relay_workers.app import Data, Finished, Job, Options, ProviderError, Reasoning, Text
from relay_workers.providers import app as app_provider
from relay_workers.providers import app_loading
from relay_workers.providers.app import AppProvider
from relay_workers.providers.base import Part, Prompt, Turn

HERE = "tests.workers.providers.test_app"
HELLO = Prompt([Turn("system", "Be brief."), Turn("user", "Hello?"), Turn("assistant", "Yes?"), Turn("user", "Go on.")])
SECRET = "a prompt that no log shall hold"

seen: list[Any] = []  # what the generators below note


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


async def parts_of(name: str, prompt: Prompt = HELLO, **options: Any) -> list[Part]:
    return [part async for part in AppProvider(f"{HERE}:{name}", **options).stream(prompt)]


async def failure_of(name: str) -> tuple[list[Part], ProviderError]:
    parts: list[Part] = []
    try:
        async for part in AppProvider(f"{HERE}:{name}").stream(HELLO):
            parts.append(part)
    except ProviderError as error:
        return parts, error
    pytest.fail(f"no ProviderError after {parts}")


# What a good answer looks like


async def echo(job: Job) -> AsyncGenerator[str]:
    seen.append(job)
    for word in ("You", " said ", "", job.content):
        yield word


async def everything(job: Job) -> AsyncGenerator[Any]:
    yield Reasoning("Hm")
    yield Data("citation", {"url": "u", "n": [1, None]})
    yield Text("Yes")
    yield "."
    yield Finished("length", "m-1", {"input_tokens": 1, "output_tokens": 2})
    seen.append("went on after its Finished")
    yield "never shown"


class Chat:
    """A callable with state of its own, whose iterator is no generator."""

    def __call__(self, job: Job) -> AsyncIterator[str]:
        return _Words(["a", "b"])

    async def method(self, job: Job) -> AsyncGenerator[str]:
        yield "method"


class _Words:
    def __init__(self, words: list[str]) -> None:
        self._words = iter(words)

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        for word in self._words:
            return word
        raise StopAsyncIteration


chat = Chat()


async def _with_prefix(prefix: str, job: Job) -> AsyncGenerator[str]:
    yield prefix


prefixed = functools.partial(_with_prefix, "partial")


async def test_strings_are_text_and_returning_is_the_finish() -> None:
    parts = await parts_of("echo")
    assert parts == [Text("You"), Text(" said "), Text(""), Text("Go on."), Finished("stop", "app")]


async def test_reasoning_data_and_the_models_own_finish_pass_in_their_order() -> None:
    finished = Finished("length", "m-1", {"input_tokens": 1, "output_tokens": 2})
    data = Data("citation", {"url": "u", "n": [1, None]})
    assert await parts_of("everything") == [Reasoning("Hm"), data, Text("Yes"), Text("."), finished]
    assert seen == []


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        ({"input_tokens": 1, "output_tokens": 2, "other": 3}, {"input_tokens": 1, "output_tokens": 2}),
        ({"input_tokens": 1}, None),
        ({"input_tokens": 2**53, "output_tokens": 2}, None),
        ({"input_tokens": -1, "output_tokens": 2}, None),
    ],
)
async def test_of_the_usage_only_what_an_end_can_carry_is_told(
    usage: dict[str, int], told: dict[str, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[HERE], "odd", Finished("stop", "m", usage))
    assert (await parts_of("yields"))[-1] == Finished("stop", "m", told)


class Special(str):
    def __str__(self) -> str:
        return "another"


async def special(job: Job) -> AsyncGenerator[str]:
    yield Special("x")


async def test_a_string_of_a_class_of_its_own_is_a_string() -> None:
    part = (await parts_of("special"))[0]
    assert isinstance(part, Text)
    assert (part.text, type(part.text)) == ("x", str)


@pytest.mark.parametrize(("name", "text"), [("chat", "ab"), ("chat.method", "method"), ("prefixed", "partial")])
async def test_any_callable_that_gives_an_async_iterator_will_do(name: str, text: str) -> None:
    parts = await parts_of(name)
    assert "".join(part.text for part in parts[:-1] if isinstance(part, Text)) == text


async def test_the_job_holds_the_whole_context_and_what_the_submit_asked_for() -> None:
    options = Options(seed=7)
    parts = await parts_of("echo", Prompt(HELLO.turns, "m-2", 5, "s", "g", {"user": "u"}, options))

    assert seen == [Job("s", "g", HELLO.turns, "m-2", 5, {"user": "u"}, options)]
    assert (seen[0].content, seen[0].messages[0].role, seen[0].messages[0].content) == ("Go on.", "system", "Be brief.")
    assert parts[-1] == Finished("stop", "m-2")
    with pytest.raises(AttributeError):
        seen[0].session = "another"


async def test_what_nobody_asked_for_is_empty_and_the_settings_model_stands_in() -> None:
    await parts_of("echo")
    await parts_of("echo", model="m-3")
    assert [(job.model, job.max_tokens, job.metadata, job.options, job.session) for job in seen] == [
        (None, None, {}, Options(), ""),
        ("m-3", None, {}, Options(), ""),
    ]
    assert seen[0].options.temperature is None
    assert (await parts_of("echo", model="m-3"))[-1] == Finished("stop", "m-3")


async def changes_its_data(job: Job) -> AsyncGenerator[Data]:
    value = {"a": 1, "day": date(2026, 1, 2), "pair": (1, 2)}
    yield Data("n", value)
    value["a"] = 2


async def test_data_is_what_json_makes_of_it_when_it_is_yielded() -> None:
    parts = await parts_of("changes_its_data")
    assert parts[0] == Data("n", {"a": 1, "day": "2026-01-02", "pair": [1, 2]})


# How it can fail


async def raises(job: Job) -> AsyncGenerator[str]:
    yield "x"
    raise KeyError(SECRET)


async def raises_far_down(job: Job) -> AsyncGenerator[str]:
    yield "x"
    await asyncio.wait_for(_deeper(), 5)


async def _deeper() -> None:
    int(SECRET)


def raises_when_called(job: Job) -> AsyncGenerator[str]:
    raise LookupError(SECRET)


async def times_out(job: Job) -> AsyncGenerator[str]:
    yield "x"
    async with asyncio.timeout(0):
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("name", "error", "line"),
    [
        ("raises", "KeyError", raises.__code__.co_firstlineno + 2),
        ("raises_far_down", "ValueError", _deeper.__code__.co_firstlineno + 1),
        ("raises_when_called", "LookupError", raises_when_called.__code__.co_firstlineno + 1),
        ("times_out", "TimeoutError", times_out.__code__.co_firstlineno + 2),
    ],
)
async def test_an_exception_of_theirs_is_told_by_class_and_place_without_its_text(
    name: str, error: str, line: int
) -> None:
    parts, failure = await failure_of(name)
    assert parts == [Text("x")][: name != "raises_when_called"]
    assert (failure.code, failure.retryable) == ("provider_error", True)
    assert str(failure) == f"{error} at {__file__}:{line}"


async def refuses(job: Job) -> AsyncGenerator[str]:
    yield "x"
    raise ProviderError("provider_rate_limited", "later", retryable=True, retry_after_s=5)


async def test_a_provider_error_of_theirs_passes_as_it_is() -> None:
    parts, failure = await failure_of("refuses")
    assert parts == [Text("x")]
    assert (failure.code, failure.retryable, failure.retry_after_s, str(failure)) == (
        "provider_rate_limited",
        True,
        5,
        "later",
    )


class Careless(ProviderError):
    def __init__(self) -> None: ...


@pytest.mark.parametrize(
    ("raised", "as_told"),
    [
        (ProviderError(SECRET, "x", retryable="yes"), ("provider_error", True, None, None)),  # type: ignore[arg-type]
        (ProviderError(object(), "x", retryable=False), ("provider_error", False, None, None)),  # type: ignore[arg-type]
        (
            ProviderError("truncated", "x", retryable=True, status="500", retry_after_s="5"),  # type: ignore[arg-type]
            ("truncated", True, None, None),
        ),
        (
            ProviderError("truncated", "x", retryable=True, status=500, retry_after_s=float("nan")),
            ("truncated", True, 500, None),
        ),
        (Careless(), ("provider_error", True, None, None)),
    ],
)
async def test_a_provider_error_of_theirs_that_is_odd_is_one_that_can_be_told(
    raised: ProviderError, as_told: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[HERE], "odd", raised)
    _, failure = await failure_of("raises_odd")
    assert (failure.code, failure.retryable, failure.status, failure.retry_after_s) == as_told


class Unheard(BaseException):
    pass


@pytest.mark.parametrize(
    "raised", [SystemExit(SECRET), KeyboardInterrupt(SECRET), GeneratorExit(SECRET), Unheard(SECRET)]
)
async def test_what_would_end_the_worker_ends_the_answer(
    raised: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[HERE], "odd", raised)
    for name, parts in (("raises_odd", [Text("x")]), ("raises_odd_when_called", []), ("raises_odd_when_closed", [])):
        if name == "raises_odd_when_closed":
            assert await parts_of(name) == [Text("x"), Finished("stop", "app")]
            continue
        said, failure = await failure_of(name)
        assert (said, failure.code) == (parts, "provider_error")
        assert str(failure).startswith(f"{type(raised).__name__} at {__file__}:")


class Loop:
    """Whatever Python asks of it, it raises what `odd` is; `at`: from where on."""

    def __init__(self, at: str) -> None:
        self._at = at

    def __aiter__(self) -> Any:
        return self._step("aiter")

    def __anext__(self) -> Any:
        return self._step("anext")

    @property
    def aclose(self) -> Any:
        return self._step("aclose")

    def _step(self, name: str) -> Any:
        if name == self._at:
            raise odd
        if name == "anext":
            raise StopAsyncIteration
        return self


def raises_in_aiter(job: Job) -> Any:
    return Loop("aiter")


def raises_in_anext(job: Job) -> Any:
    return Loop("anext")


def raises_in_aclose(job: Job) -> Any:
    return Loop("aclose")


class Unreadable(ProviderError):
    """Its own text is code as well."""

    def __init__(self) -> None: ...

    def __str__(self) -> str:
        raise SystemExit(SECRET)


@pytest.mark.parametrize("raised", [KeyError(SECRET), SystemExit(SECRET), StopIteration(SECRET), Unreadable()])
async def test_whatever_python_asks_of_theirs_may_fail(raised: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[HERE], "odd", raised)
    with capture_logs() as lines:
        for name in ("raises_in_aiter", "raises_in_anext"):
            _, failure = await failure_of(name)
            assert (failure.code, failure.retryable) == ("provider_error", True)
            assert str(failure).startswith(f"{type(raised).__name__} at {__file__}:")
        assert await parts_of("raises_in_aclose") == [Finished("stop", "app")]
    assert SECRET not in str(lines)


class Iterable:
    """Not an iterator: it has nothing to give."""

    def __aiter__(self) -> Any:
        return SECRET


def gives_no_iterator(job: Job) -> Any:
    return Iterable()


async def test_what_iterates_over_nothing_fails_the_answer() -> None:
    parts, failure = await failure_of("gives_no_iterator")
    assert (parts, failure.code) == ([], "provider_error")
    assert SECRET not in str(failure)


async def lets_its_own_task_be_cancelled(job: Job) -> AsyncGenerator[str]:
    yield "x"
    task = asyncio.create_task(asyncio.Event().wait())
    task.cancel()
    await task


async def test_a_cancellation_of_a_task_of_theirs_is_a_failure_and_none_of_the_answer() -> None:
    parts, failure = await failure_of("lets_its_own_task_be_cancelled")
    assert (parts, failure.code, failure.retryable) == ([Text("x")], "provider_error", True)
    assert "CancelledError" in str(failure)


async def raises_odd(job: Job) -> AsyncGenerator[Any]:
    yield "x"
    raise odd


def raises_odd_when_called(job: Job) -> Any:
    raise odd


async def raises_odd_when_closed(job: Job) -> AsyncGenerator[Any]:
    try:
        yield "x"
        yield Finished("stop")
    finally:
        raise odd


async def yields(job: Job) -> AsyncGenerator[Any]:
    yield "x"
    yield odd


async def answers_instead(job: Job) -> str:
    return "x"


def gives_a_coroutine(job: Job) -> Any:
    return answers_instead(job)


def gives_a_string(job: Job) -> str:
    return SECRET


odd: Any = None
_circle: list[Any] = []
_circle.append(_circle)
_deep: dict[str, Any] = {}
for _ in range(100_000):
    _deep = {"input_tokens": _deep}


class Shape:
    """Python asks it for its class whenever it is to be told apart."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise SystemExit(SECRET)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (None, "--app: None was yielded"),
        (b"secret", "--app: a value of type bytes was yielded"),
        (5, "--app: a value of type int was yielded"),
        ({"secret": 1}, "--app: a value of type dict was yielded"),
        (Text(5), "a Text was yielded whose text is a value of type int"),  # type: ignore[arg-type]
        (Reasoning(None), "a Reasoning was yielded whose text is None"),  # type: ignore[arg-type]
        (Finished("done"), "a Finished was yielded with no finish of stop, length"),  # type: ignore[arg-type]
        (Finished("stop", None, {"input_tokens": "many"}), "a Finished was yielded"),  # type: ignore[dict-item]
        (Finished("stop", None, _deep), "a Finished was yielded"),
        (Data("", 1), "name"),
        (Data("n" * 129, 1), "name"),
        (Data(5, 1), "name"),  # type: ignore[arg-type]
        (Data("secret\ud83d", 1), "JSON"),
        (Data("n", "secret\ud83d"), "JSON"),
        (Data("n", object()), "JSON (TypeError)"),
        (Data("n", _circle), "JSON (RecursionError)"),
        (Data("n", "x" * 128 * 1024), "131074 bytes of JSON, 131072 are allowed"),
        (Data("n", json.loads("[" * 101 + "]" * 101)), "deeper than 100 levels"),
    ],
)
async def test_what_cannot_be_shown_fails_the_answer_and_says_why(
    value: Any, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[HERE], "odd", value)
    parts, failure = await failure_of("yields")
    assert parts == [Text("x")]
    assert (failure.code, failure.retryable, failure.is_sick) == ("provider_error", False, False)
    assert named in str(failure)
    assert "secret" not in str(failure)


async def test_what_fails_when_it_is_looked_at_fails_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[HERE], "odd", Shape())
    parts, failure = await failure_of("yields")
    assert (parts, failure.code) == ([Text("x")], "provider_error")
    assert str(failure).startswith(f"SystemExit at {__file__}:")


@pytest.mark.parametrize(("name", "kind"), [("gives_a_coroutine", "coroutine"), ("gives_a_string", "str")])
async def test_a_call_that_gives_no_iterator_fails_the_answer(name: str, kind: str) -> None:
    _, failure = await failure_of(name)
    assert f"the call gave a value of type {kind}, which" in str(failure)
    assert (failure.retryable, SECRET in str(failure)) == (False, False)


# How it is stopped


async def cleans_up(job: Job) -> AsyncGenerator[str]:
    try:
        yield "x"
        seen.append("waiting")
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        seen.append("cleaned up")


async def test_closing_the_generator_closes_theirs() -> None:
    stream = AppProvider(f"{HERE}:cleans_up").stream(HELLO)
    assert await anext(stream) == Text("x")
    await stream.aclose()
    assert seen == ["cleaned up"]


async def read(name: str) -> None:
    async for _ in AppProvider(f"{HERE}:{name}").stream(HELLO):
        pass


async def cancelled(name: str) -> None:
    reading = asyncio.create_task(read(name))
    async with asyncio.timeout(5):
        while "waiting" not in seen:  # noqa: ASYNC110 - the generator's own note, and no event
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_cancelling_the_reading_task_cancels_theirs() -> None:
    await cancelled("cleans_up")
    assert seen == ["waiting", "cleaned up"]


async def will_not_stop(job: Job) -> AsyncGenerator[str]:
    while len(seen) < 3:
        try:
            seen.append("waiting")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield "not yet"


async def ends_quietly(job: Job) -> AsyncGenerator[str]:
    yield "half an"
    try:
        seen.append("waiting")
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return


async def fails_instead(job: Job) -> AsyncGenerator[str]:
    yield "x"
    try:
        seen.append("waiting")
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise ValueError(SECRET) from None


swallowing = pytest.mark.parametrize("name", ["will_not_stop", "ends_quietly", "fails_instead"])


@swallowing
async def test_a_generator_that_swallows_its_cancellation_is_stopped_all_the_same(name: str) -> None:
    await cancelled(name)
    assert seen == ["waiting"]


@swallowing
async def test_a_deadline_that_a_generator_swallows_still_ends_the_answer(name: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await read(name)


async def heeds_nothing(job: Job) -> AsyncGenerator[str]:
    yield "x"
    while "enough" not in seen:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("told")


async def test_a_generator_that_heeds_no_cancellation_is_left_behind_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app_provider, "CLOSE_S", 0.01)
    provider = AppProvider(f"{HERE}:heeds_nothing")
    parts: list[Part] = []

    async def read_in_time() -> None:
        async with asyncio.timeout(0.05):
            async for part in provider.stream(HELLO):
                parts.append(part)

    with capture_logs() as logged, pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.create_task(read_in_time()), 10)
    assert (parts, seen) == ([Text("x")], ["told"])
    assert [(line["event"], line["log_level"]) for line in logged] == [("not_stopped", "error")]
    [left] = [task for task in asyncio.all_tasks() if task.get_name() == "app generator"]
    seen.append("enough")
    await provider.aclose()
    await asyncio.wait([left])
    assert seen == ["told", "enough", "told"]


async def fails_to_close(job: Job) -> AsyncGenerator[Any]:
    try:
        yield "x"
        yield Finished("stop")
    finally:
        raise KeyError(SECRET)


async def never_closes(job: Job) -> AsyncGenerator[Any]:
    try:
        yield "x"
        yield Finished("stop")
    finally:
        await asyncio.Event().wait()


@pytest.mark.parametrize(("name", "error"), [("fails_to_close", "KeyError"), ("never_closes", "TimeoutError")])
async def test_a_whole_answer_outlives_a_generator_that_cannot_clean_up(
    name: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_provider, "CLOSE_S", 0.05)
    with capture_logs() as logged:
        assert await parts_of(name) == [Text("x"), Finished("stop", "app")]
    assert [(line["event"], line["log_level"]) for line in logged] == [("not_closed", "warning")]
    assert error in str(logged)
    assert SECRET not in str(logged)


# How it is found


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, not yet importable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


async def test_a_module_of_the_current_directory_is_found(directory: Path) -> None:
    (directory / "own_chat_here").mkdir()
    (directory / "own_chat_here" / "chat.py").write_text("async def generate(job):\n    yield 'mine'\n    1 / 0\n")
    provider = AppProvider("own_chat_here.chat:generate")
    stream = provider.stream(HELLO)
    assert await anext(stream) == Text("mine")
    with pytest.raises(ProviderError, match=r"^ZeroDivisionError at .*own_chat_here/chat\.py:3$"):
        await anext(stream)
    await provider.check()
    await provider.aclose()


number = 5


async def takes_nothing() -> AsyncGenerator[str]:
    yield "x"


async def takes_two(job: Job, other: Job) -> AsyncGenerator[str]:
    yield "x"


def not_async(job: Job) -> Any:
    yield "x"


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("", "is not set; it is like mypackage.chat:generate"),
        ("nonsense", "not module:function"),
        ("breaks.py", r"not module:function or file\.py:function"),
        ("a:", "not module:function"),
        (":generate", "not module:function"),
        ("a..b:generate", "not module:function"),
        ("no_such_module_here:generate", "there is no module no_such_module_here"),
        ("tests.no_such_module:generate", r"there is no module tests\.no_such_module"),
        ("needs_another:generate", "importing needs_another raised ModuleNotFoundError: no module not_installed_here"),
        ("breaks:generate", "importing breaks raised ValueError: first line$"),
        ("is_no_python:generate", "importing is_no_python raised SyntaxError"),
        ("leaves:generate", "importing leaves raised SystemExit: 3"),
        ("not_there.py:generate", "there is no file /.*/not_there.py$"),
        ("a/b:generate", "there is no file /.*/a/b$"),
        ("a_folder/:generate", "/a_folder is a folder$"),
        ("a_folder.py:generate", r"/a_folder\.py is a folder$"),
        ("./notes.txt:generate", r"/notes\.txt is not a \.py file$"),
        ("breaks.py:", "not module:function"),
        ("breaks.py:not a name", "not module:function"),
        ("breaks.py:generate", r"importing breaks\.py raised ValueError: first line$"),
        ("./is_no_python.py:generate", r"importing \./is_no_python\.py raised SyntaxError"),
        ("./leaves.py:generate", r"importing \./leaves\.py raised SystemExit: 3"),
        ("needs_another.py:generate", r"importing needs_another\.py raised ModuleNotFoundError: no module not_inst"),
        ("is_in_a_package.py:generate", "raised ImportError: attempted relative import"),
        ("./lacks.it.py:generate", "ModuleNotFoundError: no module lacks$"),
        ("./empty.py:generate", r"\./empty\.py has no generate$"),
        (f"{HERE}:nobody", "has no nobody"),
        (f"{HERE}:chat.nobody", r"has no chat\.nobody"),
        (f"{HERE}:number", "number is not callable: it is of type int"),
        (f"{HERE}:answers_instead", "coroutine function: an async generator yields"),
        (f"{HERE}:not_async", "begins with async def"),
        (f"{HERE}:takes_nothing", "does not take one argument"),
        (f"{HERE}:takes_two", "does not take one argument"),
    ],
)
def test_what_cannot_be_called_is_refused_in_one_line_that_names_the_flag(
    spec: str, named: str, directory: Path
) -> None:
    (directory / "needs_another.py").write_text("import not_installed_here")
    (directory / "breaks.py").write_text("raise ValueError('first line\\nsecond line')")
    (directory / "is_no_python.py").write_text("async def generate(job) yield")
    (directory / "leaves.py").write_text("raise SystemExit(3)")
    (directory / "is_in_a_package.py").write_text("from . import breaks")
    (directory / "lacks.it.py").write_text("import lacks")
    for name in ("empty.py", "notes.txt"):
        (directory / name).touch()
    for name in ("a_folder", "a_folder.py"):
        (directory / name).mkdir()
    before = set(sys.modules)
    with pytest.raises(SettingsError, match=named) as caught:
        AppProvider(spec)
    assert str(caught.value).startswith("--app / RELAY_APP")
    assert "\n" not in str(caught.value)
    if " raised " in str(caught.value):  # what failed is not there half done for the next import
        assert [name for name in sys.modules if "@" in name and name not in before] == []


# A file, as `python file.py` would run it

FILE = """
from __future__ import annotations
import dataclasses
import pickle
import {sibling}

@dataclasses.dataclass
class Note:
    text: str

async def generate(job):
    yield pickle.loads(pickle.dumps(Note({sibling}.GREETING))).text
    yield f" {{__name__ in __import__('sys').modules}}"
    1 / 0
"""


@pytest.fixture
def elsewhere(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is neither importable nor the current one."""
    return tmp_path_factory.mktemp("elsewhere")


def _written(folder: Path, name: str) -> str:
    """The file with a sibling of its own; the names of siblings are imported once per process."""
    sibling = f"sibling_{abs(hash(folder / name))}"
    folder.mkdir(exist_ok=True)
    (folder / f"{sibling}.py").write_text("GREETING = 'mine'")
    (folder / name).write_text(FILE.format(sibling=sibling))
    return str(folder / name)


async def _answers(spec: str) -> str:
    """What it says, and that a failure is told with its file and line."""
    texts: list[Part] = []
    failed = ""
    try:
        async for part in AppProvider(spec).stream(HELLO):
            texts.append(part)
    except ProviderError as error:
        failed = str(error)
    assert texts == [Text("mine"), Text(" True")]
    assert re.match(r"ZeroDivisionError at .*\.py:14$", failed)
    return failed


@pytest.mark.parametrize("name", ["chat.py", "my-chat.py", "class.py", "queue.py", "chat.v2.py", "1 2.py", "日本.py"])
async def test_a_file_is_found_whatever_it_is_called_and_so_are_its_siblings(elsewhere: Path, name: str) -> None:
    path = _written(elsewhere, name)
    modules = {one: sys.modules.get(one) for one in ("chat", "queue", "class")}
    assert path in await _answers(f"{path}:generate")
    assert {one: sys.modules.get(one) for one in modules} == modules


async def test_a_files_path_may_be_relative_or_begin_at_home_or_be_a_link(
    directory: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(elsewhere))
    _written(directory, "here.py")
    _written(directory / "in", "folder.py")
    _written(elsewhere, "at:home.py")
    (directory / "command_connection.py").symlink_to(elsewhere / "at:home.py")
    for spec in ("here.py:generate", "./here.py:generate", "in/folder.py:generate", "~/at:home.py:generate"):
        await _answers(spec)
    assert str(elsewhere) in await _answers("command_connection.py:generate")


def test_two_files_of_one_name_are_two_modules_and_one_file_is_one(elsewhere: Path) -> None:
    specs = [f"{_written(elsewhere / folder, 'chat.py')}:generate" for folder in ("a", "b")]
    first, second, again = (app_loading.load(spec).function for spec in (*specs, specs[0]))
    assert first is again
    assert first is not second
    assert [sys.modules[found.__module__].__file__ for found in (first, second)] == [spec[:-9] for spec in specs]


# What the docs show

DOCS = Path(__file__).parents[3] / "docs" / "models.md"


async def test_the_generator_in_the_docs_answers(directory: Path) -> None:
    (directory / "chat_of_the_docs.py").write_text(re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)[0])
    assert [part async for part in AppProvider("chat_of_the_docs:generate").stream(HELLO)] == [
        Reasoning("Looking it up. "),
        Data("citation", {"url": "https://example.org"}),
        Text("You asked: Go on."),
        Finished("stop", "app"),
    ]
