"""Shapes: what processes of two releases share in Redis, and how often each shape has changed.

Gateways and workers of one release and of the release before run together, and a rollback may end at either. So shapes
are only added to:

- A stored hash and every JSON object may get more fields. Readers ignore fields that they do not know, and keep them
  when they pass an object on. A message to a worker may get more words, and there may be other messages: both are
  ignored. Anything else with a fixed order (rows, strings, messages of an events channel) never changes: new data gets
  its own field or key. (The release before neither extends the life of a session's new key nor deletes it with the
  session: such a key has its own expiry.)
- A field keeps its meaning for ever. A new meaning gets a new name, and for one release both are written.
- A change raises the number here. tests/store/test_shapes.py checks that, and keeps the shape of every number.

A number is stored only where a reader decides by it. `v` of a job says what a reader must know to make it: one that
knows less leaves it to others, and a writer takes the lowest number that will do. A policy with another version is
ignored. `v` of a session's meta and of an offer is 1 and is never checked: what is added there may be ignored. Scripts
and their arguments need no number: each process runs its own scripts, by the hash of their source.
"""

from __future__ import annotations

JOB = 3  # since 2: `options`; since 3: `sub`; both may be ignored
OFFER = 1
POLICY = 1

VERSIONS = {
    # Keys, by their names in keys.py
    "meta": 2,  # since 2: `sub`, which the release before neither checks nor writes
    "log": 1,
    "generations": 1,
    "active": 1,
    "transcript": 1,
    "requests": 1,
    "order": 1,
    "deleted": 2,  # since 2: `o SUB`
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
    "revoked": 1,
    "tickets": 1,
    # Our JSON in them
    "job": JOB,
    "offer": OFFER,
    # Channels
    "events": 1,
    "worker": 1,
}
