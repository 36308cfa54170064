"""The provider pool: the providers of a worker process, in the order in which they are asked, with their breakers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import msgspec

from relay import logging, metrics
from relay.errors import SettingsError
from relay.protocol.options import Options, with_defaults
from relay.settings import PROVIDERS, ProviderName, Settings
from relay.store.jobs import Job
from relay.store.queue.worker_registry import BreakerState, Offer
from relay_workers import providers
from relay_workers.asking.breaker import Breaker
from relay_workers.asking.default_options import default_options
from relay_workers.providers.base import Prompt, Provider, ProviderError, describe

BREAKER_STATES: tuple[BreakerState, ...] = get_args(BreakerState)

logger = logging.get_logger("lineup")


@dataclass(frozen=True, slots=True, eq=False)
class ProviderSlot:
    """One provider of the pool. `models`: what a submit may name besides the provider's default; None: any model.

    `options`: its own, where a submit says nothing.
    """

    provider: Provider
    breaker: Breaker
    models: tuple[str, ...] | None = None
    options: Options | None = None

    @property
    def name(self) -> str:
        return self.provider.name

    def lists_model(self, model: str) -> bool:
        return model == self.provider.model or model in (self.models or ())

    def prompt(self, asked: Prompt) -> Prompt:
        """What this provider is asked, with its own options: another one may have others."""
        return msgspec.structs.replace(asked, options=with_defaults(asked.options, self.options))


class ProviderPool:
    """Shared by all generations of the process."""

    def __init__(self, slots: Sequence[ProviderSlot]) -> None:
        self.slots = tuple(slots)

    @property
    def names(self) -> list[str]:
        return [slot.name for slot in self.slots]

    def candidates(self, job: Job) -> list[ProviderSlot]:
        """The slots that may answer this job, best first; at least one. Raises ProviderError.

        A provider that was asked for by name is asked alone. A model goes to every provider that lists it. A model that
        none lists goes only to the first that takes any model: one name at two providers means two models.
        """
        slots = [slot for slot in self.slots if job.provider in (None, slot.name)]
        if not slots:
            offered = ", ".join(self.names)
            raise ProviderError("provider_error", f"{job.provider} was asked for, {offered} on offer", retryable=False)
        if job.model is None:
            return slots
        listing = [slot for slot in slots if slot.lists_model(job.model)]
        return listing or [slot for slot in slots if slot.models is None][:1] or slots[:1]

    def offers(self, queue: str, worker: str) -> list[Offer]:
        """What this process can make now, for the gateways."""
        now_s = time.monotonic()
        return [
            Offer(
                queue,
                slot.name,
                slot.provider.model,
                None if slot.models is None else list(slot.models),
                worker,
                slot.breaker.state(now_s),
            )
            for slot in self.slots
        ]

    async def check(self) -> None:
        """Log once which providers cannot be reached, and go on: they may be back before they are needed."""
        for slot in self.slots:
            try:
                await slot.provider.check()
            except ProviderError as error:
                logger.warning("provider_unreachable", provider=slot.name, **describe(error))
            except Exception:
                metrics.bugs.labels("check").inc()
                logger.exception("check_failed", provider=slot.name)

    def update_gauges(self) -> None:
        """Set the breakers' gauges. They must be polled: a breaker turns half open just by time."""
        now_s = time.monotonic()
        for slot in self.slots:
            metrics.breaker_state.labels(slot.name).set(BREAKER_STATES.index(slot.breaker.state(now_s)))

    async def aclose(self) -> None:
        await asyncio.gather(*(slot.provider.aclose() for slot in self.slots))


def provider_pool(settings: Settings) -> ProviderPool:
    """The provider pool that these settings ask for. Raises SettingsError that names what is missing."""
    names = providers.choose(settings)
    defaults, further = _by_provider(settings.model, names), _by_provider(settings.models, names)
    options = default_options(settings.options, names)
    return ProviderPool([_slot(settings, name, defaults, further, options.get(name)) for name in names])


def _slot(
    settings: Settings,
    name: ProviderName,
    defaults: Mapping[str, list[str]],
    further: Mapping[str, list[str]],
    options: Options | None,
) -> ProviderSlot:
    model = next(iter(defaults.get(name, ())), "")
    provider = providers.make(name, settings.model_copy(update={"model": model}))
    models = tuple(further[name]) if name in further else None
    return ProviderSlot(provider, Breaker(settings.breaker_failures, settings.breaker_open_s), models, options)


def _by_provider(value: str, names: Sequence[str]) -> dict[str, list[str]]:
    """`anthropic:a, openai:b` → a list for each. A model without a provider's name belongs to the first provider.

    Raises SettingsError for a model of a provider that is not in the list.
    """
    found: dict[str, list[str]] = {}
    for name, model in _pairs(value, names):
        found.setdefault(name, []).append(model)
    return found


def _pairs(value: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for item in (item.strip() for item in value.split(",")):
        name, colon, model = item.partition(":")
        if colon and name in names:
            yield name, model
        elif colon and name in PROVIDERS:
            raise SettingsError(
                f"--model / RELAY_MODEL / RELAY_MODELS: {item}: {name} is not among the providers, {', '.join(names)}"
            )
        elif item:
            yield names[0], item
