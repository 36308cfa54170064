"""The numbers that both clients share: this one reads them from static/client-constants.json.

The browser client is one file that loads no other, so it holds them itself; a test compares. docs/clients.md explains
each.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

# Not by importlib.resources: beside a folder named relay, such as a clone, that looks into the folder.
_FILE = Path(__file__).parent.parent / "static" / "client-constants.json"


class Constants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    backoff_first_s: float  # the bound of the first wait; it doubles, and each wait is drawn from 0 to the bound
    backoff_most_s: float
    refused_most_s: float  # the bound of what is added to `retry_after_s`
    welcome_within_s: float
    ask_after_s: float  # without a word, a client without a token greets: the gateway may want one
    silence_heartbeats: int  # no frame for so many heartbeats plus the margin: the connection is dead
    silence_margin_s: float  # at most a heartbeat
    refresh_pause_s: float  # the least between two refreshes; with less time left, a token is not asked for again
    stable_after_s: float  # a connection that lasted so long resets the backoff
    drain_most_s: float  # the longest wait that a draining gateway may ask for
    lost_after_s: float  # if the gateway announces none
    last_call_s: float  # added to `lost_after_s`: the gateway's word may be on its way
    rebuilds: int  # for one answer whose text does not match its checksum
    remembered_doubts: int  # of so many answers the rebuilds are remembered


SHARED = msgspec.json.decode(_FILE.read_bytes(), type=Constants)
