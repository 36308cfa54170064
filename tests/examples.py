"""How much a property test tries: little in the default tier, much with `--hypothesis-profile=all`."""

from __future__ import annotations

from hypothesis import settings

ALL = "all"
_MORE = 10


def register() -> None:
    """Before any test module is imported (conftest.py does)."""
    settings.register_profile(ALL, deadline=None, print_blob=True)


def tries(examples: int, steps: int = 50) -> settings:
    """Settings of one test. What fails is printed with a blob that reproduces it; no example has a deadline."""
    more = _MORE if settings.get_current_profile_name() == ALL else 1
    return settings(max_examples=examples * more, stateful_step_count=steps, deadline=None, print_blob=True)
