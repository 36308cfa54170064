"""What a gateway allows the owner of a session, others who own theirs, and tokens that name it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from relay.auth.identity import EVERYBODY, UNRESTRICTED, Access
from relay.errors import ClientError, StorageError
from relay.follow.follower import Follower
from relay.gateway.event_stream import EventStream
from relay.gateway.follower_pool import FollowerPool
from relay.gateway.guard import Asked
from relay.gateway.submissions import Accepted, Submissions
from relay.gateway.waiting import until_ended
from relay.protocol.commands import Submit
from relay.store.jobs import Job
from relay.store.session.replies import Admitted, Request
from tests.follow.following import Stage
from tests.scenarios.processes import until
from tests.store.in_memory import (
    Clock,
    admitted_and_claimed,
    answered,
    claimed,
    job_of,
    next_job,
    queue_on,
    redis_in_memory,
    session_log_on,
)

A, B = Access("a", "a"), Access("b", "b")
READS_A = Access("a")  # without the scope submit
NAMES, READS_IT = Access(None, "n"), Access()  # tokens that name the session


async def _on_offer(submit: Submit) -> None: ...


class Gateway:
    """As much of one as knows about owners."""

    def __init__(self, redis: Redis) -> None:
        self.redis, self.stage = redis, Stage(redis, session_log_on(redis))
        self.session_log, self.queue = self.stage.log, queue_on(redis)
        self.followers = FollowerPool(self.stage.another, self.session_log.own, linger_s=10)
        capabilities: Any = SimpleNamespace(check=_on_offer, serves=lambda queue: True)
        self.submissions = Submissions(
            capabilities, self.session_log, self.queue, redis, self.followers, look_ms=1000, tombstone_ms=60_000
        )
        self.draining = asyncio.Event()

    async def submit(self, access: Access, request_id: str = "r", **asked: Any) -> Accepted:
        submit = Submit(session="s", request_id=request_id, **(asked or {"content": "why?"}))
        return await self.submissions.submit(submit, access=access)

    async def follow(self, access: Access) -> Follower:
        follower = await self.followers.acquire("s", access=access)
        self.followers.release(follower)
        return follower

    async def owner(self) -> str | None:
        opened = await self.session_log.open("s", create=False)
        return opened.sub if opened is not None else None


@pytest.fixture
async def gateway(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    Clock().install(monkeypatch)
    async with redis_in_memory() as redis:
        gateway = Gateway(redis)
        yield gateway
        await gateway.followers.aclose()


def refused(code: str) -> Any:
    return pytest.raises(ClientError, check=lambda error: error.code == code)


# Following


async def test_who_may_make_a_session_owns_what_they_follow_first(gateway: Gateway) -> None:
    assert (await gateway.follow(A)).sub == "a"
    with refused("forbidden"):
        await gateway.follow(B)
    assert (await gateway.follow(READS_A)).sub == "a"
    assert await gateway.owner() == "a"


async def test_who_may_not_make_one_makes_none(gateway: Gateway) -> None:
    with refused("forbidden"):
        await gateway.follow(READS_A)
    assert await gateway.redis.keys() == []


async def test_a_token_that_names_it_follows_whosever_it_is(gateway: Gateway) -> None:
    assert (await gateway.follow(A)).sub == "a"
    for access in (NAMES, READS_IT, UNRESTRICTED):
        assert (await gateway.follow(access)).sub == "a"


@pytest.mark.parametrize(("access", "sub"), [(NAMES, "n"), (READS_IT, "")])
async def test_a_token_that_names_it_owns_what_it_makes_if_it_may_submit(
    gateway: Gateway, access: Access, sub: str
) -> None:
    assert (await gateway.follow(access)).sub == sub
    assert await gateway.owner() == sub


async def test_of_a_session_in_which_others_wait_the_first_to_come_is_the_owner(gateway: Gateway) -> None:
    waits = await gateway.followers.acquire("s", access=READS_IT)
    with refused("forbidden"):
        await gateway.follow(READS_A)
    assert await gateway.follow(A) is waits
    assert waits.sub == "a"
    with refused("forbidden"):
        await gateway.follow(B)
    gateway.followers.release(waits)


async def test_a_session_that_is_claimed_by_a_submit_is_followed_by_its_owner(gateway: Gateway) -> None:
    waits = await gateway.followers.acquire("s", access=READS_IT)
    await gateway.submit(A)
    assert await gateway.follow(READS_A) is waits
    gateway.followers.release(waits)


async def test_a_session_with_events_that_nobody_owns_is_for_tokens_that_name_it(gateway: Gateway) -> None:
    await answered(gateway.session_log, job_of(), "text")
    with refused("forbidden"):
        await gateway.follow(A)
    await gateway.follow(READS_IT)
    with refused("forbidden"):
        await gateway.follow(A)


async def test_two_who_follow_a_new_session_at_once_are_not_both_let_in(gateway: Gateway) -> None:
    found = await asyncio.gather(gateway.follow(A), gateway.follow(B), return_exceptions=True)
    assert sorted(type(one).__name__ for one in found) == ["AccessRefused", "Follower"]


async def test_a_follower_at_hand_costs_its_owner_no_question(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = await gateway.follow(A)
    monkeypatch.setattr(gateway.followers, "_own", None)
    assert await gateway.follow(A) is follower


async def test_who_comes_after_somebody_else_has_made_it_again_is_not_lent_the_former_follower(
    gateway: Gateway,
) -> None:
    former = await gateway.followers.acquire("s", access=A)
    await gateway.session_log.delete("s", 60_000)
    await answered(gateway.session_log, job_of(sub="b"), "of b")
    later = await gateway.followers.acquire("s", access=B)
    assert (later is former, later.sub, former.deleted) == (False, "b", True)
    with refused("forbidden"):
        await gateway.follow(A)
    gateway.followers.release(former)
    gateway.followers.release(later)


async def test_a_session_that_is_taken_between_the_question_and_the_opening_is_forbidden(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = gateway.session_log.own

    async def then_taken(session: str, sub: str, *, make: bool) -> bool:
        is_theirs = await own(session, sub, make=make)
        await gateway.redis.flushall()
        await own(session, "b", make=True)
        return is_theirs

    monkeypatch.setattr(gateway.followers, "_own", then_taken)
    with refused("forbidden"):
        await gateway.follow(A)
    assert await gateway.owner() == "b"


async def test_a_session_that_is_lost_between_the_question_and_the_opening_is_theirs_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    await gateway.session_log.own("s", "a", make=True)
    own = gateway.session_log.own

    async def then_lost(session: str, sub: str, *, make: bool) -> bool:
        is_theirs = await own(session, sub, make=make)
        await gateway.redis.flushall()
        return is_theirs

    monkeypatch.setattr(gateway.followers, "_own", then_lost)
    assert (await gateway.follow(READS_A)).sub == "a"
    assert await gateway.owner() == "a"


async def test_while_redis_is_away_only_the_known_owner_is_lent_a_follower(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = await gateway.follow(A)

    async def no_answer() -> None:
        raise StorageError("away")

    monkeypatch.setattr(follower, "sync", no_answer)
    assert await gateway.follow(A) is follower
    with pytest.raises(StorageError):
        await gateway.follow(B)


# Asking


@pytest.mark.parametrize(("access", "sub"), [(A, "a"), (NAMES, "n"), (UNRESTRICTED, "")])
async def test_a_submit_makes_the_session_and_its_job_names_the_owner(
    gateway: Gateway, access: Access, sub: str
) -> None:
    await gateway.submit(access)
    assert await gateway.owner() == sub
    job = await next_job(gateway.queue)
    assert job is not None
    assert job.sub == sub


@pytest.mark.parametrize("access", [NAMES, UNRESTRICTED])
async def test_who_names_somebodys_session_asks_in_it_for_its_owner(gateway: Gateway, access: Access) -> None:
    await gateway.submit(A, "r1")
    await next_job(gateway.queue)
    await gateway.submit(access, "r2")
    job = await next_job(gateway.queue)
    assert job is not None
    assert job.sub == "a"
    admitted = await gateway.session_log.admit(job)  # as its worker does
    assert admitted is not None
    assert admitted.accepts(job.generation)


async def test_a_job_that_is_enqueued_again_names_the_owner_too(gateway: Gateway) -> None:
    await gateway.submit(A)
    job = await next_job(gateway.queue)
    await gateway.redis.delete(*await gateway.redis.keys("t:q:*"))
    for access in (NAMES, A):
        assert (await gateway.submit(access)).duplicate
    assert await next_job(gateway.queue) == job


@pytest.mark.parametrize("owned", ["a", ""])
@pytest.mark.parametrize(
    "asked",
    [
        {"request_id": "r-g1", "content": "of another body"},
        {"request_id": "r2", "content": "why?"},
        {"request_id": "r2", "retry_of": "g1"},
        {"request_id": "r2", "retry_of": "g9"},
    ],
)
async def test_in_somebody_elses_session_nobody_asks_and_nobody_learns_anything(
    gateway: Gateway, owned: str, asked: dict[str, Any]
) -> None:
    await answered(gateway.session_log, job_of(sub=owned), "text")
    with refused("forbidden"):
        await gateway.submit(B, **asked)
    assert await next_job(gateway.queue) is None


@pytest.mark.parametrize("access", [A, NAMES])
async def test_a_session_that_is_made_between_the_look_and_the_admission_is_not_written_into_unasked(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, access: Access
) -> None:
    """A token that names it asks once more, for the owner; one that must own it is refused."""
    look_up = gateway.session_log.look_up

    async def then_made(session: str, request_id: str) -> Request:
        monkeypatch.setattr(gateway.session_log, "look_up", look_up)
        found = await look_up(session, request_id)
        await answered(gateway.session_log, job_of(sub="b"), "of b")
        return found

    monkeypatch.setattr(gateway.session_log, "look_up", then_made)
    if access is NAMES:
        accepted = await gateway.submit(access)
        job = await next_job(gateway.queue)
        assert job is not None
        assert (job.sub, job.generation) == ("b", accepted.generation)
    else:
        with refused("forbidden"):
            await gateway.submit(access)
        assert await gateway.session_log.moment("s", 9, "b") is not None
    assert await next_job(gateway.queue) is None
    assert await gateway.queue.sizes("default") == ((1, 0) if access is NAMES else (0, 0))


async def test_a_submit_gives_up_where_the_owner_changes_each_time(gateway: Gateway) -> None:
    admit, owners = gateway.session_log.admit, iter("abcdefghij")

    async def made_before(job: Job) -> Admitted | None:
        await gateway.session_log.delete("s", 60_000)
        await gateway.session_log.own("s", next(owners), make=True)
        return await admit(job)

    gateway.session_log.admit = made_before  # type: ignore[method-assign]
    with refused("unavailable"):
        await gateway.submit(NAMES)
    assert await gateway.queue.sizes("default") == (0, 0)


async def test_a_retry_brings_no_question_out_of_a_session_that_has_become_somebody_elses(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = gateway.session_log.look_up
    await gateway.session_log.own("s", "a", make=True)

    async def then_taken(session: str, request_id: str) -> Request:
        found = await look_up(session, request_id)
        await gateway.redis.flushall()
        await answered(gateway.session_log, job_of(sub="b"), "of b")
        return found

    monkeypatch.setattr(gateway.session_log, "look_up", then_taken)
    with refused("not_found"):
        await gateway.submit(A, retry_of="g1")


# Stopping and deleting


async def test_others_stop_and_delete_as_if_there_were_nothing(gateway: Gateway) -> None:
    accepted = await gateway.submit(A)
    await gateway.follow(A)
    for access in (B, Access("b")):
        with refused("not_found"):
            await gateway.submissions.stop("s", accepted.generation, access=access)
        with refused("not_found"):
            await gateway.submissions.delete("s", access)
    assert not await gateway.submissions.stop("s", accepted.generation, access=READS_A)
    await gateway.submissions.delete("s", A)
    await gateway.submissions.delete("s", A)
    with refused("not_found"):
        await gateway.submissions.delete("s", B)


async def test_a_token_that_names_it_stops_and_deletes_in_anybodys(gateway: Gateway) -> None:
    accepted = await gateway.submit(A)
    assert not await gateway.submissions.stop("s", accepted.generation, access=READS_IT)
    await gateway.submissions.delete("s", READS_IT)
    assert await gateway.owner() is None


async def shown_and_lost(gateway: Gateway) -> Follower:
    """`a` was shown an answer that Redis has lost with all else."""
    follower = await gateway.follow(A)
    gateway.stage.writers["g1"] = await admitted_and_claimed(gateway.session_log, sub="a")
    await gateway.stage.tokens("text")
    await follower.sync()
    await gateway.redis.flushall()
    return follower


async def test_an_answer_that_redis_has_lost_is_stopped_by_its_owner_only(gateway: Gateway) -> None:
    await shown_and_lost(gateway)
    with refused("not_found"):
        await gateway.submissions.stop("s", "g1", access=B)
    assert await gateway.redis.keys() == []
    assert not await gateway.submissions.stop("s", "g1", access=A)
    assert await gateway.owner() == "a"


async def test_a_session_that_redis_has_lost_is_deleted_by_its_owner_only(gateway: Gateway) -> None:
    await shown_and_lost(gateway)
    with refused("not_found"):
        await gateway.submissions.delete("s", B)
    await gateway.submissions.delete("s", A)
    admitted = await gateway.session_log.admit(job_of(sub="a"))
    assert admitted is not None
    assert admitted.state == "deleted"


@pytest.mark.parametrize("access", [A, READS_IT])
async def test_a_stop_of_a_lost_answer_writes_nothing_into_what_is_somebody_elses_now(
    gateway: Gateway, access: Access
) -> None:
    await shown_and_lost(gateway)
    await answered(gateway.session_log, job_of("g2", sub="b"), "of b")
    with refused("not_found"):
        await gateway.submissions.stop("s", "g1", access=access)
    assert await gateway.session_log.span("s", "g1") is None
    if access is A:
        with refused("not_found"):
            await gateway.submissions.delete("s", access)
        assert await gateway.session_log.span("s", "g2") is not None


# Waiting and streams of one answer


async def test_a_wait_for_an_answer_ends_when_the_session_becomes_somebody_elses(gateway: Gateway) -> None:
    accepted = await gateway.submit(A)
    job = await next_job(gateway.queue)
    assert job is not None
    await claimed(gateway.session_log, job)
    follower = await gateway.followers.acquire("s", access=A)
    waiting = asyncio.create_task(
        until_ended(gateway, "s", accepted.generation, 30, asyncio.Event().wait, A)  # type: ignore[arg-type]
    )
    await until(lambda: bool(follower.broadcast.viewers), "it waits")
    await gateway.redis.flushall()
    await answered(gateway.session_log, job_of(accepted.generation, sub="b"), "of b")  # even if it has the same name
    await follower.sync()
    with refused("not_found"):
        await asyncio.wait_for(waiting, 30)
    gateway.followers.release(follower)


async def test_a_wait_in_somebody_elses_session_is_forbidden(gateway: Gateway) -> None:
    await answered(gateway.session_log, job_of(sub="a"), "of a")
    with refused("forbidden"):
        await until_ended(gateway, "s", "g1", 30, asyncio.Event().wait, B)  # type: ignore[arg-type]


def _stream(gateway: Gateway, access: Access, generation: str | None) -> EventStream:
    asked = Asked("s", EVERYBODY, access)
    return EventStream(gateway, asked, None, "start", generation)  # type: ignore[arg-type]


async def test_a_stream_of_somebody_elses_answer_is_not_found_and_of_their_session_forbidden(
    gateway: Gateway,
) -> None:
    await answered(gateway.session_log, job_of(sub="a"), "of a")
    for generation, code in (("g1", "not_found"), (None, "forbidden")):
        with refused(code):
            await _stream(gateway, B, generation)._acquire_follower()
        lent = await _stream(gateway, A, generation)._acquire_follower()
        assert lent is not None
        gateway.followers.release(lent[0])


async def test_nor_is_one_that_redis_has_lost_found_by_others(gateway: Gateway) -> None:
    follower = await shown_and_lost(gateway)
    await follower.sync()
    assert "g1" in follower.missing
    with refused("not_found"):
        await _stream(gateway, B, "g1")._acquire_follower()
    lent = await _stream(gateway, A, "g1")._acquire_follower()
    assert lent is not None
    gateway.followers.release(lent[0])
