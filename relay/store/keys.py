"""Every key and channel name in Redis, in one place.

A session's keys share the hash tag `{session}` and a queue's keys share `{queue}`, so that a script needs one slot
only, and Redis Cluster works. The scripts derive a session's key names from its meta key, and a queue's from its open
key, by the suffixes that `lua_names` gives them: no name is written twice.

    PREFIX:s:{SESSION}:meta         hash    epoch, seq (the head), floor, trims, changes, expires, sub (its owner);
                                            "question GENERATION": seq of a question passed on to it
                      :log          stream  entry SEQ-0: g = generation, e = the event's body
                      :generations  zset    ids by the seq of their submit, the last `max_generations`
                      :active       zset    those that have not ended
                      :transcript   list    ids of completed generations: the model's context
                      :requests     hash    request_id → generation and body hash
                      :order        list    request ids, oldest first, for the bound
                      :deleted      zset    tombstones "e EPOCH", "g GENERATION", "r REQUEST_ID", "o SUB" (whose
                                            it was), by when they expire
                      :refused      zset    ids that found no room, by when that may be forgotten
                      :g:GENERATION hash    fence, claims, owner, lease, attempt, state, count, bytes, crc, n …
                      :t:GENERATION string  the text of the current attempt
                      :r:GENERATION string  its reasoning
                      :d:GENERATION list    its data: "TEXT_BYTES BODY", the bytes of text before it, the event
                      :events       channel "EPOCH SEQ BODY" of each event
    PREFIX:q:{QUEUE}:open           zset    "SESSION GENERATION" by the time of the reaper's next check
                    :jobs           hash    the same → the whole job
                    :entries        hash    the same → "PRIORITY ENTRY-ID"
                    :trims          zset    ended ones by the time of their trimming
                    :policy         string  the deadlines of its jobs (policy.py)
                    :served         string  when a worker last said that it serves the queue
                    :dead           zset    "SESSION GENERATION PRIORITY REASON" of dead letters by when they died
                    :letters        hash    "SESSION GENERATION" of a dead letter → the whole job
                    :high :normal :low      streams with the consumer group `workers`
    PREFIX:queues                   zset    queue names by the time of the last submit
    PREFIX:offers                   zset    what living workers can make, by when the offer runs out
    PREFIX:revoked                  zset    each `sub` whose tokens were revoked, by when (revocations.py)
    PREFIX:tickets                  string  the key that tickets are signed with where no secret is set (ticket_key.py)
    PREFIX:w:WORKER                 channel "stop GENERATION": a gateway to one worker
"""

from __future__ import annotations

import re

from relay.protocol.words import PRIORITIES

GROUP = "workers"

_SESSION = {
    "meta": "meta",
    "log": "log",
    "generations": "generations",
    "active": "active",
    "transcript": "transcript",
    "requests": "requests",
    "order": "order",
    "deleted": "deleted",
    "refused": "refused",
    "events": "events",
}
_GENERATION = {"state": "g:", "text": "t:", "reasoning": "r:", "data": "d:"}
_QUEUE: dict[str, str] = {
    name: name for name in ("open", "jobs", "entries", "trims", "policy", "served", "dead", "letters", *PRIORITIES)
}


class Keys:
    """Key names under one prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.queues = f"{prefix}:queues"
        self.offers = f"{prefix}:offers"
        self.revoked = f"{prefix}:revoked"
        self.tickets = f"{prefix}:tickets"

    @staticmethod
    def prefix_of(key: str) -> str:
        """The prefix of a key that a script is called with."""
        return re.split(r":[sq]:\{|:(?:queues|offers|revoked|tickets)$", key, maxsplit=1)[0]

    def session(self, session: str, name: str = "meta") -> str:
        return f"{self._prefix}:s:{{{session}}}:{_SESSION[name]}"

    def generation(self, session: str, generation: str, name: str = "state") -> str:
        return f"{self._prefix}:s:{{{session}}}:{_GENERATION[name]}{generation}"

    def queue(self, queue: str, name: str = "open") -> str:
        return f"{self._prefix}:q:{{{queue}}}:{_QUEUE[name]}"

    def worker(self, worker: str) -> str:
        return f"{self._prefix}:w:{worker}"


def lua_names() -> str:
    """The same names for the scripts: `KEY.log`, `of.text(generation)`, `QUEUE.jobs` …, all from KEYS[1]."""
    session = "".join(f"KEY.{name} = base .. '{suffix}'\n" for name, suffix in _SESSION.items())
    queue = "".join(f"QUEUE.{name} = base .. '{suffix}'\n" for name, suffix in _QUEUE.items())
    generation = "".join(
        f"of.{name} = function(generation) return base .. '{suffix}' .. generation end\n"
        for name, suffix in _GENERATION.items()
    )
    return (
        "local base = string.match(KEYS[1], '^(.*:)[^:]*$')\n"
        "local KEY, QUEUE, of = {}, {}, {}\n"
        f"local GROUP = '{GROUP}'\n" + session + queue + generation
    )
