"""Requests that a server accepts: what it refuses of one is left out, at once, and not sent to that model again.

A refusal is believed only if the request without it is accepted. What was learned lasts as long as the process.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from relay import logging, metrics
from relay_workers.providers.refused_parameters import complaint
from relay_workers.providers.request import OTHER_NAME, Parameter, Request

MAX_ADAPTATIONS = 8  # of one call: more than it has optional parts
MAX_MODELS = 256  # that something is remembered of; the one asked longest ago is forgotten first

logger = logging.get_logger("providers")

T = TypeVar("T")
Refused = frozenset[Parameter]


class RequestAdapter:
    """What one server has refused, by model."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._refused: OrderedDict[str, Refused] = OrderedDict()
        self._logged: OrderedDict[tuple[str, ...], None] = OrderedDict()

    async def ask(
        self,
        model: str,
        build: Callable[[Refused], Request],
        send: Callable[[dict[str, Any]], Awaitable[T]],
    ) -> T:
        """What `send` returns for the first request that is accepted. `build`: the request without what is refused.

        Raises what `send` raised last. No answer has begun until `send` returns, so nothing is asked for twice.
        """
        dropped: dict[Parameter, bool] = {}  # in this call; whether that is worth remembering
        while True:
            request = build(_with(self._refused.get(model, frozenset()), dropped))
            try:
                response = await send(request.arguments)
            except Exception as error:
                refused = complaint(getattr(error, "status_code", None), getattr(error, "body", None), request.optional)
                if refused is None or len(dropped) == MAX_ADAPTATIONS:
                    raise
                if refused.parameter in dropped or OTHER_NAME.get(refused.parameter) in dropped:
                    raise
                dropped[refused.parameter] = refused.lasting
                metrics.provider_requests_adapted.labels(self._provider, refused.parameter).inc()
                continue
            self._learn(model, [parameter for parameter, lasting in dropped.items() if lasting])
            for option in request.ignored:
                if self._is_new("option_ignored", model, option):
                    logger.warning("option_ignored", provider=self._provider, model=model, option=option)
            return response

    def _learn(self, model: str, parameters: list[Parameter]) -> None:
        """Meanwhile other calls may have learned the same, or something else."""
        if model in self._refused:
            self._refused.move_to_end(model)
        if not parameters:
            return
        self._refused[model] = _with(self._refused.get(model, frozenset()), parameters)
        if len(self._refused) > MAX_MODELS:
            self._refused.popitem(last=False)
        for parameter in parameters:
            if self._is_new("request_adapted", model, parameter):
                logger.warning("request_adapted", provider=self._provider, model=model, parameter=parameter)

    def _is_new(self, *line: str) -> bool:
        """Whether this line has not been logged lately."""
        if line in self._logged:
            return False
        self._logged[line] = None
        if len(self._logged) > MAX_MODELS:
            self._logged.popitem(last=False)
        return True


def _with(refused: Refused, more: dict[Parameter, bool] | list[Parameter]) -> Refused:
    """`refused` and `more`; a limit that is refused now is sent by its other name, whatever was before."""
    return (refused - {OTHER_NAME[parameter] for parameter in more if parameter in OTHER_NAME}) | frozenset(more)
