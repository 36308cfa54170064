"""Shapes: what processes of two releases share in Redis, and how often each has changed.

Gateways and workers of a release and of the one before run together, and either may be what is rolled back to. So
shapes are only added to:

- A stored hash and every JSON object may get further fields. Readers ignore what they do not know, and whoever passes
  an object on passes on what it does not know. A message to a worker may get further words, and there may be other
  messages: both are ignored. What stands in a fixed order anywhere else (rows, strings, what an events channel says)
  never changes: what is new there gets a field or a key of its own. (The release before neither keeps a new key of a
  session for as long as the session, nor deletes it with it: such a key has an expiry of its own.)
- A field keeps its meaning for good. What means something else has another name, and for one release both are written.
- A change raises the number here; tests/store/test_shapes.py holds that, and keeps the shape of every number.

A number is stored only where a reader decides by it. `v` of a job says what one must know to make it: whoever knows
less leaves it to others, and whoever writes it takes the lowest that will do. A policy whose first word is another
counts for nothing. `v` of a session's meta and of an offer are 1 and refuse nobody: what is added there may be ignored.
Scripts and their arguments need none: each process runs its own, by the hash of their source, beside those of the
other release.
"""

from __future__ import annotations

JOB = 1
OFFER = 1
POLICY = 1

VERSIONS = {
    # Keys, by the names in keys.py
    "meta": 1,
    "log": 1,
    "generations": 1,
    "active": 1,
    "transcript": 1,
    "requests": 1,
    "order": 1,
    "deleted": 1,
    "refused": 1,
    "state": 1,
    "text": 1,
    "reasoning": 1,
    "data": 1,
    "open": 1,
    "jobs": 1,
    "entries": 1,
    "trims": 1,
    "policy": POLICY,
    "served": 1,
    "dead": 1,
    "letters": 1,
    "priority": 1,  # the three streams
    "queues": 1,
    "offers": 1,
    # What stands in them as JSON of ours
    "job": JOB,
    "offer": OFFER,
    # Channels
    "events": 1,
    "worker": 1,
}
