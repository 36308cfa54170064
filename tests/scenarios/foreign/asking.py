"""One question to a foreign server through a provider of ours, and what both made of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from relay.protocol.view import FrameDict
from relay_workers.providers.anthropic import AnthropicProvider
from relay_workers.providers.base import Data, Finished, Prompt, ProviderError, Reasoning, Text, Turn
from relay_workers.providers.openai import OpenAIProvider
from tests.scenarios.client import Client, check
from tests.scenarios.foreign.reading import FINISHES, Api, Piece, Said, joined, merged, read
from tests.scenarios.processes import START_S
from tests.scenarios.wire import Wire
from tests.scenarios.world import World

APIS: list[Api] = ["openai", "anthropic"]


@dataclass
class Answer:
    """What the provider yielded: `pieces` in order, and either `finished` or `error`."""

    pieces: list[Piece] = field(default_factory=list)
    finished: Finished | None = None
    error: ProviderError | None = None


async def ask(
    api: Api,
    url: str,
    question: str,
    *,
    key: str = "none",
    model: str = "",
    max_tokens: int | None = None,
    before: Sequence[Turn] = (),
    requests: int = 1,
) -> tuple[Answer, Said | None]:
    """What our provider made of the server's last response, and what that one's own bytes say; None: there was none.

    `before`: the turns before the question. `requests`: how often it may ask, for what this server refuses.
    """
    async with Wire(url) as wire:
        provider = _provider(api, wire.url, key, model)
        answer = Answer()
        try:
            prompt = Prompt([*before, Turn("user", question)], max_tokens=max_tokens)
            async with aclosing(provider.stream(prompt)) as parts:
                async for part in parts:
                    if isinstance(part, Text | Reasoning):
                        answer.pieces.append((type(part).__name__.lower(), part.text))
                    elif isinstance(part, Data):
                        answer.pieces.append((part.name, part.value))
                    elif isinstance(part, Finished):
                        answer.finished = part
        except ProviderError as error:
            answer.error = error
        finally:
            await provider.aclose()
        answer.pieces = merged(answer.pieces)
        said = read(api, bytes(wire.record))
    assert len(said) <= requests, f"asked {len(said)} times"
    return answer, said[-1] if said else None


def assert_same(api: Api, answer: Answer, said: Said | None) -> None:
    """The provider's answer is what the bytes say: all that was said in its order, finish, usage and model."""
    assert answer.error is None, f"{answer.error!r} for {said}"
    assert said is not None
    assert answer.finished is not None
    assert said.finish is not None, said
    assert answer.pieces == said.content
    assert answer.finished.finish == FINISHES[api][said.finish]
    assert answer.finished.usage == said.usage
    assert said.model is None or answer.finished.model == said.model


async def ask_through_a_relay(
    relay: World, api: Api, url: str, key: str, model: str, *questions: str, session: str = "s"
) -> list[Said]:
    """Ask in one session, through a gateway and a worker: a viewer is shown each response, byte for byte.

    Each is part of what the later questions are asked with. Returns them.
    """
    async with Wire(url) as wire:
        gateway = await relay.gateway()
        if api == "openai":
            await relay.worker("--model", model, OPENAI_BASE_URL=f"{wire.url}/v1", OPENAI_API_KEY=key)
        else:
            await relay.worker("--model", model, provider=api, ANTHROPIC_BASE_URL=wire.url, ANTHROPIC_API_KEY=key)
        answers: list[Said] = []
        async with Client(gateway.url, session) as client:
            await client.subscribe()
            for number, question in enumerate(questions):
                generation = await client.submit(question, f"r{number}", max_tokens=60)
                await client.ended(generation, START_S)
                said = read(api, bytes(wire.record))[-1]
                assert said.finish is not None, said
                end = check(client, generation, said.text)
                shown = client.shown(generation)
                assert shown.reasoning == joined(said.content, "reasoning")
                others = [piece for piece in said.content if piece[0] != "reasoning"]
                assert merged([_piece(part) for part in shown.parts]) == merged(others)
                assert (end["finish"], end.get("usage")) == (FINISHES[api][said.finish], said.usage)
                answers.append(said)
        await relay.end_processes()
    return answers


def _piece(part: str | FrameDict) -> Piece:
    return ("text", part) if isinstance(part, str) else (part["name"], part["value"])


def _provider(api: Api, url: str, key: str, model: str) -> OpenAIProvider | AnthropicProvider:
    if api == "openai":
        return OpenAIProvider(key, f"{url}/v1", model, START_S)
    return AnthropicProvider(key, url, model, START_S)
