"""constraints.txt: it pins all that CI installs, on every Python that may run it, and that is what is installed."""

from __future__ import annotations

import os
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINNED = {
    canonicalize_name(pin.name): pin
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
    for pin in [Requirement(line)]
}
PYTHONS = ["3.11.2", "3.11.9", "3.12.0", "3.13.0", "3.14.0"]  # redis-py wants another package before 3.11.3


def _asked() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"].values()
    named = [PROJECT["project"]["dependencies"], *extras, PROJECT["dependency-groups"]["test"]]
    return [Requirement(line) for lines in named for line in lines]


def _environment(python: str) -> dict[str, str]:
    """As markers see it: this machine with that Python."""
    here = {name: str(value) for name, value in default_environment().items()}
    return {**here, "python_version": python.rpartition(".")[0], "python_full_version": python}


def _wanted(python: str) -> list[Requirement]:
    """What that Python is given, with all that it needs in turn, as the installed packages say."""
    environment = _environment(python)
    found: list[Requirement] = []
    seen: set[tuple[str, frozenset[str]]] = set()
    left = _asked()
    while left:
        wanted = left.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        found.append(wanted)
        if key in seen:
            continue
        seen.add(key)
        try:
            requires = metadata.distribution(wanted.name).requires or []
        except metadata.PackageNotFoundError:
            continue  # of another Python's
        for line in requires:
            further = Requirement(line)
            extras = [{"extra": extra} for extra in ("", *wanted.extras)]
            if further.marker is None or any(further.marker.evaluate({**environment, **extra}) for extra in extras):
                left.append(further)
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_all_that_is_wanted_is_pinned_to_one_version_that_will_do(python: str) -> None:
    wanted = _wanted(python)
    assert len(wanted) > 50
    environment = _environment(python)
    for one in wanted:
        pin = PINNED.get(canonicalize_name(one.name))
        assert pin is not None, f"{one} is not pinned"
        assert pin.marker is None or pin.marker.evaluate(environment), f"{one} is not pinned on {python}"
        [specifier] = pin.specifier
        assert specifier.operator == "=="
        assert one.specifier.contains(specifier.version, prereleases=True), f"{pin} is not {one}"


def test_what_is_installed_is_what_is_pinned() -> None:
    installed = {canonicalize_name(found.name): found.version for found in metadata.distributions()}
    others = [
        f"{name} {installed[name]}, not {pin}"
        for name, pin in PINNED.items()
        if name in installed and not pin.specifier.contains(installed[name], prereleases=True)
    ]
    assert others == []


def test_nothing_is_pinned_that_nobody_wants() -> None:
    wanted = {canonicalize_name(one.name) for python in PYTHONS for one in _wanted(python)}
    assert set(PINNED) - wanted == {"pip"}


def test_uvicorn_is_bounded_to_the_release_whose_private_parts_are_used() -> None:
    [uvicorn] = [one for one in _asked() if one.name == "uvicorn"]
    files = [path for path in ROOT.glob("relay/**/*.py") if re.search(r"uvicorn\.(_|protocols)", path.read_text())]
    assert files, "nothing private is used any more: let the bound go"
    release = os.path.splitext(metadata.version("uvicorn"))[0]
    major, minor = (int(number) for number in release.split("."))
    assert not uvicorn.specifier.contains(f"{major}.{minor + 1}")
    assert uvicorn.specifier.contains(f"{major}.{minor}.99")
