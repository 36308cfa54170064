"""Keeps `from workers.app import …`, the old name of this package, working for one more release.

The finder comes after all others, so anything of the user's with the old name wins.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType

from relay import logging
from relay_workers import app

_OLD = "workers"

logger = logging.get_logger("app")


def serve_old_import(package: str = _OLD, ours: str = app.__name__) -> None:
    """From now on `package` and `package.app` are found if nothing else has that name. Idempotent.

    `ours`: the module that `package.app` stands for; the same module, not a copy.
    """
    finder = OldImport(package, ours)
    if ours != f"{package}.app" and finder not in sys.meta_path:
        sys.meta_path.append(finder)


def moved(name: str, package: str = _OLD, ours: str = app.__name__) -> str:
    """The hint for a module that was not found, if it is the old one: then a package of the user's hides it."""
    return f", which is {ours} now" if name == f"{package}.app" != ours else ""


class OldImport(MetaPathFinder, Loader):
    """Finds and loads both; warns about the second, which is what an app imports."""

    def __init__(self, package: str, ours: str) -> None:
        self._package = package
        self._module = f"{package}.app"
        self._ours = ours

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OldImport) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self._package, self._ours))

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == self._package:
            return ModuleSpec(name, self, is_package=True)
        if name == self._module and _is_nobodys(sys.modules.get(self._package)):
            return ModuleSpec(name, self)
        return None

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == self._module:
            sys.modules[self._module] = importlib.import_module(self._ours)
            logger.warning(
                "old_import", detail=f"{self._module} is {self._ours} now; {_importer()} imports the old name"
            )


def _is_nobodys(package: ModuleType | None) -> bool:
    """Whether it is ours, or a folder without `__init__.py`. A package with one is left as the user wrote it."""
    return getattr(package, "__file__", None) is None


def _importer() -> str:
    """file:line of the import statement."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (frame.f_code.co_filename.startswith("<frozen importlib") or _is_import(frame)):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "somebody"


def _is_import(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") in (__name__, "importlib")
