"""Capabilities: what may be asked for here, and the refusal of everything else."""

from __future__ import annotations

from typing import Any, get_args

from relay.errors import ClientError
from relay.gateway.codecs import CODECS
from relay.protocol.commands import Submit
from relay.store.queue.worker_registry import BreakerState, Offer, WorkerRegistry


class Capabilities:
    """What the workers offer, limited to the queues that this gateway allows (none named: all)."""

    def __init__(
        self, offers: WorkerRegistry, queues: str, limits: dict[str, float], features: tuple[str, ...]
    ) -> None:
        self._offers = offers
        self._queues = [name.strip() for name in queues.split(",") if name.strip()]
        self._limits = limits
        self._features = features

    def serves(self, queue: str) -> bool:
        """Whether this gateway allows the queue at all."""
        return not self._queues or queue in self._queues

    async def check(self, submit: Submit) -> None:
        """Raises ClientError `bad_message` that names what is on offer; StorageError.

        A queue without a living worker refuses nothing: a worker may start before the answer's time is up.
        """
        if not self.serves(submit.queue):
            raise _not_on_offer("queue", submit.queue, self._queues)
        if submit.provider is None and submit.model is None:
            return
        offers = [offer for offer in await self._offers.current() if offer.queue == submit.queue]
        if submit.provider is not None:
            makers = [offer for offer in offers if offer.provider == submit.provider]
            if offers and not makers:
                raise _not_on_offer("provider", submit.provider, [offer.provider for offer in offers])
            offers = makers
        if submit.model is not None and offers and not any(_makes(offer, submit.model) for offer in offers):
            raise _not_on_offer("model", submit.model, [name for offer in offers for name in _models(offer)])

    async def describe(self) -> dict[str, Any]:
        """What a client may use. Raises StorageError."""
        offers = [o for o in await self._offers.current() if self.serves(o.queue)]
        return {
            "protocol": "relay.v1",
            "modes": ["chat"],
            "queues": sorted({offer.queue for offer in offers}),
            "providers": [_provider(name, offers) for name in sorted({offer.provider for offer in offers})],
            "transports": ["websocket", "sse", "http"],
            "subprotocols": list(CODECS),
            "limits": self._limits,
            "features": {"auth": False, "tickets": False, "reports": False, "reasoning": True, "delete": True}
            | dict.fromkeys(self._features, True),
        }


def _provider(name: str, offers: list[Offer]) -> dict[str, Any]:
    """`models`: those known; with `any_model`, other names are passed on to the provider unchanged.

    `workers`: how many processes ask this provider.
    """
    makers = [offer for offer in offers if offer.provider == name]
    return {
        "provider": name,
        "state": _state(makers),
        "queues": sorted({offer.queue for offer in makers}),
        "models": sorted({model for offer in makers for model in _models(offer)}),
        "any_model": any(offer.models is None for offer in makers),
        "workers": len({offer.worker for offer in makers}),
    }


def _state(makers: list[Offer]) -> str:
    """The best state that any worker sees; `ready` if a breaker is closed."""
    states = {offer.state for offer in makers}
    best = next(state for state in get_args(BreakerState) if state in states)
    return "ready" if best == "closed" else str(best)


def _makes(offer: Offer, model: str) -> bool:
    return offer.models is None or model in _models(offer)


def _models(offer: Offer) -> list[str]:
    return [offer.model, *(offer.models or [])]


def _not_on_offer(field: str, asked: str, offered: list[str]) -> ClientError:
    names = ", ".join(sorted(set(offered))[:20])
    return ClientError("bad_message", f"{field}: {asked[:64]} is not on offer here; there is {names}.")
