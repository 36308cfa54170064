"""A temporary folder that is gone when its process is; what a killed one leaves behind, the next start removes.

The owner holds a lock (flock) on the folder itself. The kernel lets go of it when the owner dies, however it dies, so
nobody has to believe a pid. Whoever removes a folder of the dead holds that lock, too: an owner that has just made its
folder and finds it locked, or gone, makes another one.
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

_TRIES = 20  # it takes somebody else's start in the same microseconds to spoil one
_LOOKED_AT = 1000  # folders of one start
_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@contextmanager
def private_folder(kind: str, files: str) -> Iterator[Path]:
    """Of mode 0700, removed with all that is in it. Raises SettingsError where there can be none.

    `files`: a pattern of the names that may lie in one. Of the dead, a folder that holds anything else is left alone.
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
    raise OSError("others remove it again and again")


def _locked(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without such locks: nobody can take it for a dead one's, either
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
    except OSError:  # one may make folders where one may not list them
        return
    for path in found:
        try:
            folder = os.open(path, _OPEN)
        except OSError:  # somebody else's, or gone just now
            continue
        try:
            _remove_if_dead(path, folder, files)
        except OSError:  # its owner lives and holds the lock; or it cannot be removed, and is no concern of this start
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
