"""Whole text in word-like tokens, for providers that have no tokens of their own to show."""

from __future__ import annotations

import re
from collections.abc import Iterator

# What a tokenizer would make of prose, roughly: CJK by the character, words with the space before them, the rest in
# runs. Marks and joiners (U+0300…, U+200D, U+FE0F) are no word characters and often stand alone, as with real models.
_TOKEN = re.compile(r" ?[\u3040-\u30ff\u3400-\u9fff]| ?[^\W\u3040-\u30ff\u3400-\u9fff]+| ?[^\w\s]+|\s+")


def tokenize(text: str) -> Iterator[str]:
    """The text in tokens; joined, they are the text again."""
    return (match[0] for match in _TOKEN.finditer(text))
