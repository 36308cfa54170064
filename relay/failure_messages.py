"""What a person reads instead of an answer that failed, in the person's language. Pure.

Languages travel with a job as one short text: at most MAX_LANGUAGES tags in order of preference, "de-CH,de,en".
"""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_LANGUAGES = 5
MAX_SENTENCE = 500  # characters

ENGLISH = "The assistant ran into a problem. Please try again."
_TRADITIONAL = "助理遇到問題，請再試一次。"
BUILT_IN: Mapping[str, str] = {
    "en": ENGLISH,
    "de": "Beim Assistenten ist ein Problem aufgetreten. Bitte versuchen Sie es erneut.",
    "fr": "L’assistant a rencontré un problème. Veuillez réessayer.",
    "es": "Se ha producido un problema con el asistente. Inténtelo de nuevo, por favor.",
    "it": "Si è verificato un problema con l’assistente. Si prega di riprovare.",
    "pt": "Ocorreu um problema com o assistente. Tente novamente, por favor.",
    "nl": "Er is een probleem opgetreden met de assistent. Probeer het opnieuw.",
    "pl": "Wystąpił problem z asystentem. Proszę spróbować ponownie.",
    "ja": "アシスタントで問題が発生しました。もう一度お試しください。",
    "zh": "助手遇到了问题，请重试。",
    # Browsers there name the region, not the script; simplified characters would read as a mistake.
    "zh-Hant": _TRADITIONAL,
    "zh-TW": _TRADITIONAL,
    "zh-HK": _TRADITIONAL,
    "zh-MO": _TRADITIONAL,
}

_MAX_RANGES = 50  # how many of a header are read
_MAX_TAG = 35  # characters; https://www.rfc-editor.org/rfc/rfc5646#section-4.4.1
_TAG = re.compile(r"[A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*")
_QUALITY = re.compile(r"[ \t]*[qQ]=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters; halves of pairs, which JSON may hold


def languages(accept_language: str) -> str | None:
    """The languages of an `Accept-Language`, the most preferred first; None if it names none. Raises nothing.

    Malformed and refused (q=0) ones are left out, and so is `*`, which does not say what to choose: RFC 9110 §12.5.4,
    RFC 4647 §3.4.
    """
    liked: dict[str, float] = {}
    for part in accept_language.split(",", _MAX_RANGES)[:_MAX_RANGES]:
        tag, quality = _range(part)
        if quality > liked.get(tag, 0.0):
            liked[tag] = quality
    best = sorted(liked, key=lambda tag: -liked[tag])[:MAX_LANGUAGES]
    return ",".join(best) or None


def _range(part: str) -> tuple[str, float]:
    """One tag and its quality, 0 to 1; 0 also if it is malformed."""
    tag, semicolon, parameter = part.strip(" \t").partition(";")
    tag = tag.rstrip(" \t")
    quality = _QUALITY.fullmatch(parameter)
    if len(tag) > _MAX_TAG or not _TAG.fullmatch(tag) or (semicolon and not quality):
        return "", 0.0
    return tag, float(quality[1]) if quality else 1.0


class FailureMessages:
    """One sentence for each language, and `default` if none of a reader's languages has one."""

    def __init__(self, default: str, by_language: Mapping[str, str] | None = None) -> None:
        self._default = default
        self._by_language = {tag.lower(): sentence for tag, sentence in (by_language or {}).items()}

    def choose(self, languages: str | None) -> str:
        """The sentence for a reader of these languages, as `languages` returns them: "de-CH" finds "de", too.

        The first language that has a sentence wins: the lookup of RFC 4647 §3.4.
        """
        for tag in (languages or "").lower().split(","):
            while tag:
                if tag in self._by_language:
                    return self._by_language[tag]
                tag = tag.rpartition("-")[0]
        return self._default


def with_operator_messages(default: str, by_language: Mapping[str, str]) -> FailureMessages:
    """The operator's sentences. If they set none, and the default is our English one: our own, in every language."""
    if default != ENGLISH:
        return FailureMessages(default, by_language)
    return FailureMessages(default, {"en": ENGLISH, **by_language} if by_language else BUILT_IN)


def check_sentence(sentence: str) -> str:
    """Raises ValueError if it cannot be shown to a person in one line."""
    if not 1 <= len(sentence) <= MAX_SENTENCE or _NO_TEXT.search(sentence):
        raise ValueError(f"a sentence has 1 to {MAX_SENTENCE} characters and no control characters")
    return sentence


def check_sentences(by_language: object) -> dict[str, str]:
    """Raises ValueError if it is not a map of language tags to sentences."""
    if not isinstance(by_language, dict):
        raise ValueError('it must be a JSON object such as {"de": "…", "pt-BR": "…"}')
    for tag, sentence in by_language.items():
        if not isinstance(tag, str) or len(tag) > _MAX_TAG or not _TAG.fullmatch(tag):
            raise ValueError(f"{tag!r} is no language tag such as de or pt-BR")
        if not isinstance(sentence, str):
            raise ValueError(f"{tag}: a sentence is a string")
        try:
            check_sentence(sentence)
        except ValueError as error:
            raise ValueError(f"{tag}: {error}") from None
    return by_language
