"""Python imports this by itself where this directory is on PYTHONPATH: the gateways that scenarios start watch their
sinks (see tests/sink_order.py). What is out of order is an error in their log.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_SINKS = ("relay.gateway.sinks", "relay.gateway.event_stream")


def _report(complaint: str) -> None:
    line = json.dumps({"level": "error", "event": "sink_order", "detail": complaint})
    print(line, file=sys.stderr, flush=True)


class _Watching(MetaPathFinder):
    """Finds the modules that have sinks where they always are, and has their sinks watched once they are imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _SINKS:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _Watched(spec.loader)
        return spec


class _Watched(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        from tests.sink_order import watch

        watch(module, _report)


sys.meta_path.insert(0, _Watching())
