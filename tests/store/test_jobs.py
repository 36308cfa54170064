"""Jobs of a later release: what they say beyond what is known here goes on as it came; what is beyond us is left."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from relay.errors import LaterJob, UnreadableJob
from relay.protocol.options import Options
from relay.store import jobs, shapes
from relay.store.jobs import Job
from tests.store.in_memory import job_of

# What JSON allows and a decoder may change: more digits than a float has, escapes, blanks, an order of its own.
LATER = b'"speak": {"temperature":0.70,"big":123456789012345678901234567890}, "note":"\\u00e9"'


def _stored(job: Job, *more: bytes) -> bytes:
    """As a later release stores it, its own fields first."""
    return b"{" + b",".join([*more, jobs.encode(job)[1:-1]]) + b"}"


def _fields(body: bytes) -> dict[str, bytes]:
    return {name: bytes(raw) for name, raw in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items()}


def test_a_job_is_read_as_it_was_written() -> None:
    options = Options(temperature=0.7, stop=["END"], seed=-1)
    job = job_of(
        metadata={"a": [1, None]}, messages=[{"role": "user", "content": "é"}], priority="high", options=options
    )
    read = jobs.read(jobs.encode(job))
    assert jobs.encode(read) == jobs.encode(job)
    assert read.as_it_came == b""
    assert read.options == options
    assert _fields(jobs.encode(job))["options"] == b'{"temperature":0.7,"stop":["END"],"seed":-1}'
    assert "options" not in _fields(jobs.encode(job_of()))


def test_what_is_not_known_here_is_ignored_and_goes_on_byte_for_byte() -> None:
    body = _stored(job_of(), LATER)
    job = jobs.read(body)
    assert msgspec.structs.replace(job, as_it_came=b"") == job_of()
    assert _fields(jobs.encode(job)) == _fields(body)
    assert _fields(jobs.encode(jobs.read(jobs.encode(job)))) == _fields(body)


def test_what_lies_deeper_goes_on_too() -> None:
    turns = b'"messages":[{"role":"user","content":"q","images":["a.png"]}]'
    body = _stored(job_of(), turns)
    assert _fields(jobs.encode(jobs.read(body)))["messages"] == turns.partition(b":")[2]


def test_an_option_that_is_not_known_here_goes_on_with_those_that_are() -> None:
    options = b'"options": {"top_k":40,"temperature":0.70}'
    job = jobs.read(_stored(job_of(), options))
    assert job.options == Options(temperature=0.7)
    later = b'"options": {"effort":"xhigh","temperature":2.5,"stop":["1","2","3","4","5"],"seed":1}'
    assert jobs.read(_stored(job_of(), later)).options == Options(seed=1)
    assert _fields(jobs.encode(jobs.read(_stored(job_of(), later))))["options"] == later.partition(b": ")[2]
    again = msgspec.structs.replace(job, generation="g2")
    assert _fields(jobs.encode(again))["options"] == options.partition(b": ")[2]


def test_what_is_changed_here_is_changed_and_nothing_else() -> None:
    """As a retry does it."""
    job = jobs.read(_stored(job_of(provider="openai", retry_of="g0"), LATER))
    again = msgspec.structs.replace(job, generation="g2", request_id="again", retry_of="g1", provider=None)
    expected = _fields(_stored(job_of("g2", request_id="again", retry_of="g1"), LATER))
    expected |= _fields(msgspec.json.encode({n: f"{v}-g1" for n, v in (("body_hash", "h"), ("message_id", "m"))}))
    expected["content"] = b'"question of g1"'
    assert _fields(jobs.encode(again)) == expected


def test_a_job_that_takes_a_later_release_to_make_is_left_to_it() -> None:
    known = _stored(job_of(), b'"v":%d' % shapes.JOB)
    assert jobs.read(known).generation == "g1"
    with pytest.raises(LaterJob, match=f"a job of version {shapes.JOB + 1} cannot be read"):
        jobs.read(_stored(job_of(), b'"v":%d' % (shapes.JOB + 1)))
    with pytest.raises(LaterJob):  # whatever has become of the rest
        jobs.read(b'{"v":%d}' % (shapes.JOB + 1))


@pytest.mark.parametrize("body", [b"", b"[]", b'{"of":"another release"}', b'{"v":"x"}'])
def test_what_cannot_be_read_and_does_not_say_that_it_is_later_is_no_later_job(body: bytes) -> None:
    with pytest.raises(UnreadableJob) as caught:
        jobs.read(body)
    assert not isinstance(caught.value, LaterJob)


def test_nothing_that_is_only_ours_is_stored() -> None:
    for job in (job_of(), jobs.read(_stored(job_of(), LATER))):
        stored: dict[str, Any] = msgspec.json.decode(jobs.encode(job))
        assert "as_it_came" not in stored
