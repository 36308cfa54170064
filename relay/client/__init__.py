"""The Python client of relay.v1.

    async with connect("http://127.0.0.1:8080") as relay:
        answer = await relay.submit("session", "Hi")
        async for item in answer:
            if isinstance(item, Text):
                print(item.text, end="", flush=True)

Each text comes once and in order, through lost connections and restarts of gateways and workers; `Restart` says when
the text begins again. `Relay.follow` gives everything that happens in a session.
"""

from relay.client.answer import Answer
from relay.client.answer_items import Data, End, Item, Reader, Restart, Status, Text
from relay.client.connection import Relay, connect
from relay.client.following import Applied, Change, Following, Lost, Rebuilt
from relay.errors import AnswerLost, Disconnected, RelayError, RequestRefused, SessionDeleted, TokenRefused
from relay.protocol.words import Cursor

__all__ = [
    "Answer", "AnswerLost", "Applied", "Change", "Cursor", "Data", "Disconnected", "End", "Following", "Item", "Lost",
    "Reader", "Rebuilt", "Relay", "RelayError", "RequestRefused", "Restart", "SessionDeleted", "Status", "Text",
    "TokenRefused", "connect",
]  # fmt: skip
