"""A temporary folder that is removed when its process ends; the next start removes what a killed process left.

The owner holds a lock (flock) on the folder itself. The kernel releases it however the owner dies, so nobody has to
trust a pid. A process that removes a dead owner's folder holds that lock, too. An owner that has just made its folder
and finds it locked, or gone, makes another one.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from relay.errors import SettingsError

_TRIES = 20  # one fails only if another process starts in the same microseconds
_LOOKED_AT = 1000  # folders checked at one start
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@contextmanager
def private_folder(kind: str, files: str) -> Iterator[Path]:
    """A folder of mode 0700, removed with everything in it. Raises SettingsError if none can be made.

    `files`: a pattern of the names that may be in one. An abandoned folder that holds anything else is left alone.
    """
    _remove_abandoned(kind, re.compile(files))
    try:
        path, lock = _make(kind)
    except OSError as error:
        raise SettingsError(f"no temporary folder can be made; is TMPDIR right? ({error})") from None
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _make(kind: str) -> tuple[Path, int]:
    """A new folder and its lock. Raises OSError."""
    for _ in range(_TRIES):
        path = Path(tempfile.mkdtemp(prefix=f"relay-{kind}-"))
        try:
            lock = os.open(path, _OPEN)  # no child inherits it
        except FileNotFoundError:
            continue
        if _locked(lock) and _is_still(path, lock):
            return path, lock
        os.close(lock)
        shutil.rmtree(path, ignore_errors=True)
    raise OSError("other processes keep removing it")


def _locked(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without such locks: then nobody can take it for abandoned, either
    return True


def _is_still(path: Path, folder: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(folder))
    except FileNotFoundError:
        return False


def _remove_abandoned(kind: str, files: re.Pattern[str]) -> None:
    ours = re.compile(rf"relay-{kind}-[a-z0-9_]{{8}}")  # as mkdtemp names them
    try:
        with os.scandir(tempfile.gettempdir()) as entries:
            found = list(islice((entry.path for entry in entries if ours.fullmatch(entry.name)), _LOOKED_AT))
    except OSError:  # a directory may allow making folders, but not listing them
        return
    for path in found:
        try:
            folder = os.open(path, _OPEN)
        except OSError:  # another user's, or just removed
            continue
        try:
            _remove_if_dead(path, folder, files)
        except OSError:  # its owner lives and holds the lock; or it cannot be removed, which does not matter here
            pass
        finally:
            os.close(folder)


def _remove_if_dead(path: str, folder: int, files: re.Pattern[str]) -> None:
    if os.fstat(folder).st_uid != os.geteuid():
        return
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    names = os.listdir(folder)
    if all(files.fullmatch(name) for name in names):
        for name in names:
            os.unlink(name, dir_fd=folder)
        os.rmdir(path)
