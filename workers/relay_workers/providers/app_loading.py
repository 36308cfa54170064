"""`module:function` or `file.py:function`, found and checked before a worker takes its first job.

Whatever is wrong becomes a SettingsError.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from relay.errors import SettingsError
from relay_workers.providers import old_import

_EXAMPLE = "mypackage.chat:generate"


class LoadedApp(NamedTuple):
    """`home`: where their code lives, a file or (ending in a separator) a directory."""

    function: Callable[[Any], Any]
    home: str


def load(spec: str) -> LoadedApp:
    """The function that `spec` names. Raises SettingsError.

    For a module, the current directory is importable; for a file, its own folder, as with `python file.py`.
    """
    old_import.serve_old_import()
    source, _, path = spec.rpartition(":")
    is_file = source.endswith(".py") or os.sep in source
    if not (is_file or _is_dotted(source)) or not _is_dotted(path):
        kinds = "module:function or file.py:function"
        raise _wrong(spec, f"not {kinds}, as in {_EXAMPLE}" if spec else f"not set; it is like {_EXAMPLE}")
    module = _import_file(spec, source) if is_file else _import(spec, source)
    found: Any = module
    for name in path.split("."):
        if not hasattr(found, name):
            raise _wrong(spec, f"{source} has no {path}")
        found = getattr(found, name)
    if why := _unfit(found):
        raise _wrong(spec, f"{path} {why}")
    return LoadedApp(found, str(module.__file__) if is_file else _home(source, module))


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _import(spec: str, name: str) -> ModuleType:
    _make_importable(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise _wrong(spec, f"there is no module {error.name} in {os.getcwd()} or on PYTHONPATH") from None
        raise _failed(spec, name, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(spec, name, error) from error


def _import_file(spec: str, given: str) -> ModuleType:
    path = os.path.realpath(os.path.expanduser(given))
    if not os.path.isfile(path):
        raise _wrong(spec, f"{path} is a folder" if os.path.isdir(path) else f"there is no file {path}")
    if not given.endswith(".py"):
        raise _wrong(spec, f"{path} is not a .py file")
    _make_importable(os.path.dirname(path))
    name = _name_of(path)
    if name in sys.modules:
        return sys.modules[name]
    loader = SourceFileLoader(name, path)
    module = module_from_spec(ModuleSpec(name, loader, origin=path))
    module.__file__ = path
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception | SystemExit):
            raise _failed(spec, given, error) from error
        raise
    return module


def _name_of(path: str) -> str:
    """The file's name in sys.modules, by which dataclasses and pickles find it.

    No import statement can spell it, so it replaces no other module, whatever the file is called. It has no dot, so
    the file is in no package.
    """
    return f"{Path(path).stem.replace('.', '_')}@{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"


def _make_importable(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _failed(spec: str, name: str, error: BaseException) -> SettingsError:
    if isinstance(error, ModuleNotFoundError) and error.name:
        said = [f"no module {error.name}{old_import.moved(error.name)}"]
    else:
        said = str(error).splitlines()[:1]
    return _wrong(spec, f"importing {name} raised {': '.join([type(error).__name__, *said])[:300]}")


def _unfit(found: Any) -> str:
    """Why it cannot be the function to call; empty if it may be: only the first call shows what it returns."""
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
