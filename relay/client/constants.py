"""The numbers that both clients share: this one reads them from static/client-constants.json.

The browser client is one file that asks for no other, so it holds them itself; a test compares. docs/clients.md says
what each is.
"""

from __future__ import annotations

from importlib.resources import files

import msgspec


class Constants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    backoff_first_s: float  # the bound of the first wait; it doubles, and each wait is drawn from 0 to it
    backoff_most_s: float
    refused_most_s: float  # of what is drawn beyond `retry_after_s`
    welcome_within_s: float
    silence_heartbeats: int  # without a frame for so many, and the margin: the connection is dead
    silence_margin_s: float  # at most a heartbeat
    stable_after_s: float  # a connection that lasted so long begins the backoff anew
    drain_most_s: float  # whatever a draining gateway says
    lost_after_s: float  # where the gateway announces none
    last_call_s: float  # beyond `lost_after_s`: its word may be on its way
    rebuilds: int  # for one answer whose text does not prove
    remembered_doubts: int  # answers that this is remembered of


SHARED = msgspec.json.decode((files("relay") / "static" / "client-constants.json").read_bytes(), type=Constants)
