"""`module:function`, found and judged before a worker takes its first job. All that is wrong is one SettingsError."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from relay.errors import SettingsError

_EXAMPLE = "mypackage.chat:generate"


class Loaded(NamedTuple):
    """`home`: where their code lives, a file or (ending in a separator) a directory."""

    function: Callable[[Any], Any]
    home: str


def load(spec: str) -> Loaded:
    """The function that `spec` names; the current directory is importable. Raises SettingsError."""
    module_name, _, path = spec.partition(":")
    if not all(name.isidentifier() for name in [*module_name.split("."), *path.split(".")]):
        raise _wrong(spec, f"not module:function, as in {_EXAMPLE}" if spec else f"not set; it is like {_EXAMPLE}")
    module = _import(spec, module_name)
    found: Any = module
    for name in path.split("."):
        if not hasattr(found, name):
            raise _wrong(spec, f"{module_name} has no {path}")
        found = getattr(found, name)
    if why := _unfit(found):
        raise _wrong(spec, f"{path} {why}")
    return Loaded(found, _home(module_name, module))


def _import(spec: str, name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            hint = f"; write {name.removesuffix('.py')}:…, without .py" if name.endswith(".py") else ""
            raise _wrong(spec, f"there is no module {error.name} in {here} or on PYTHONPATH{hint}") from None
        raise _wrong(spec, f"importing {name} raised ModuleNotFoundError: no module {error.name}") from error
    except (Exception, SystemExit) as error:
        said = str(error).splitlines()[:1]
        raise _wrong(spec, f"importing {name} raised {': '.join([type(error).__name__, *said])[:300]}") from error


def _unfit(found: Any) -> str:
    """Why it cannot be what we call; empty if it may be: what a callable returns, only its first call tells."""
    if not callable(found):
        return f"is not callable: it is of type {type(found).__name__}"
    called = found if inspect.isroutine(found) or inspect.isclass(found) else type(found).__call__
    if inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(called):
        return "is a coroutine function: an async generator yields its answer instead of returning it"
    if inspect.isgeneratorfunction(found) or inspect.isgeneratorfunction(called):
        return "is a generator function, but not an async one: it begins with async def"
    try:
        inspect.signature(found).bind(object())
    except TypeError as error:
        return f"does not take one argument, the job: {error}"
    except ValueError:
        pass  # builtins may have no signature to read
    return ""


def _home(name: str, module: ModuleType) -> str:
    top = sys.modules.get(name.partition(".")[0], module)
    if paths := list(getattr(top, "__path__", [])):
        return str(Path(paths[0])) + os.sep
    return str(top.__file__ or "")


def _wrong(spec: str, what: str) -> SettingsError:
    return SettingsError(f"--app / RELAY_APP {spec}: {what}" if spec else f"--app / RELAY_APP is {what}")
