"""Messages about wrong settings and options that a person can act on, instead of pydantic's own. Pure."""

from __future__ import annotations

import re

from pydantic import AfterValidator
from pydantic_core import ErrorDetails

MAX_SHOWN = 200  # characters of what was given

_WORDS = {
    "bool_parsing": "it must be true or false",
    "bool_type": "it must be true or false",
    "finite_number": "it must be a finite number",
    "float_parsing": "it must be a number",
    "float_type": "it must be a number",
    "greater_than": "it must be more than {gt}",
    "greater_than_equal": "it must be at least {ge}",
    "int_from_float": "it must be a whole number",
    "int_parsing": "it must be a whole number",
    "int_parsing_size": "it has too many digits",
    "int_type": "it must be a whole number",
    "less_than": "it must be less than {lt}",
    "less_than_equal": "it must be at most {le}",
    "literal_error": "it must be {expected}",
    "string_type": "it must be a text",
    "string_unicode": "it must be a text in UTF-8",
}


def validation_message(error: ErrorDetails) -> str:
    """What the value must be, as a sentence without the setting's name."""
    template = _WORDS.get(error["type"])
    if template is None:
        return error["msg"].removeprefix("Value error, ")  # pydantic puts that before our own validators' messages
    return template.format(**{name: _plain(value) for name, value in error.get("ctx", {}).items()})


def _plain(bound: object) -> object:
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def shown(given: object) -> str:
    """The given value, on one line and cut to MAX_SHOWN characters."""
    text = repr(given)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"


def spelled_as(pattern: str, in_words: str) -> AfterValidator:
    """Requires a text that matches `pattern` as a whole; `in_words`: what the error says that it must be."""
    compiled = re.compile(pattern, re.DOTALL)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"it must be {in_words}")
        return text

    return AfterValidator(check)
