"""The frame that we build ourselves is the one that websockets would send."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from relay.gateway.websocket_protocol import text_frame


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 127, 255, 256, 65534, 65535, 65536, 262144])
def test_a_text_frame_of_every_length_form_is_what_websockets_serialises(size: int) -> None:
    payload = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


@given(st.text(max_size=300))
@settings(max_examples=50, deadline=None)
def test_any_text_is_framed_as_websockets_frames_it(text: str) -> None:
    assert text_frame(text.encode()) == Frame(Opcode.TEXT, text.encode()).serialize(mask=False)


def test_text_frames_are_these_bytes() -> None:
    assert text_frame(b"") == b"\x81\x00"
    assert text_frame(b"hi") == b"\x81\x02hi"
    assert text_frame(b"a" * 125)[:2] == b"\x81\x7d"
    assert text_frame(b"a" * 126)[:4] == b"\x81\x7e\x00\x7e"
    assert text_frame(b"a" * 65535)[:4] == b"\x81\x7e\xff\xff"
    assert text_frame(b"a" * 65536)[:10] == b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"
