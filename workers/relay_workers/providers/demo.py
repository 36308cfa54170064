"""The provider that needs no key: short pieces of prose at a human pace, for trying out everything else.

Deterministic: the same last user turn gives the same tokens at the same intervals.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable

from relay_workers.providers.base import Finished, Part, Prompt, Text
from relay_workers.providers.tokenizing import tokenize

_NAP_S = 0.004  # shorter sleeps only wake the loop more often: what is due by then comes at once
_JITTER = 0.6  # of an interval; below 1, so that the due times are in the order of the tokens


class DemoProvider:
    """Writes one of its pieces, chosen by the last user turn.

    `clock` gives monotonic seconds, `sleep` waits some.
    """

    name = "demo"
    model = "demo"
    first_token_s: float | None = None

    def __init__(
        self,
        tokens_per_second: float = 30,
        first_token_s: float = 0.3,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._interval_s = 1 / tokens_per_second
        self._first_token_s = first_token_s
        self._clock = clock
        self._sleep = sleep

    async def check(self) -> None:
        """Nothing to reach."""

    async def stream(self, prompt: Prompt) -> AsyncGenerator[Part, None]:
        """The answer, part by part; see Provider. Each token's due time is set at the start, so late ones catch up."""
        tokens = list(tokenize(_piece(prompt)))
        written = tokens[: prompt.max_tokens]
        first_due = self._clock() + self._first_token_s
        for index, token in enumerate(written):
            wait_s = first_due + (index + _jitter(index)) * self._interval_s - self._clock()
            if wait_s > 0:
                await self._sleep(max(wait_s, _NAP_S))
            yield Text(token)
        usage = {
            "input_tokens": sum(1 for turn in prompt.turns for _ in tokenize(turn.content)),
            "output_tokens": len(written),
        }
        yield Finished("stop" if len(written) == len(tokens) else "length", self.model, usage)

    async def aclose(self) -> None:
        """Nothing to close."""


def _piece(prompt: Prompt) -> str:
    """Chosen by a hash that is the same in every process; Python's own is salted."""
    asked = next((turn.content for turn in reversed(prompt.turns) if turn.role == "user"), "")
    return PIECES[zlib.crc32(asked.encode("utf-8", "surrogatepass")) % len(PIECES)]


def _jitter(index: int) -> float:
    """A fraction of an interval, scattered but the same each time; 0 for the first token."""
    return (index * 0.6180339887 % 1) * _JITTER


PIECES = (
    """\
Twice a day the harbour empties, and nobody thinks it strange. The boats settle on their sides like cows in a \
meadow, the ropes go slack, and a smell of salt and old wood climbs the stairs into the town. Children walk out to \
where the fish were this morning and find small things that the sea has forgotten: a blue bottle, a crab with \
opinions 🦀, one glove.

Then the water turns. You never see the moment. There is a bright thread in the mud, and a while later there is a \
stream, and when you look up from your coffee the boats are standing again, a little surprised, tugging at their \
lines. My grandfather kept a table of the tides above the stove, but he hardly read it. He said the tide was the \
only visitor who was never late and never stayed too long, and that a person could do worse than to live like that: \
to come when it is time, to fill what is empty, and to leave the beach clean for somebody else's footprints. 🌊""",
    """\
Bread begins with waiting, which is why it suits winter evenings. You stir flour into water until it stops being \
two things, add salt, and leave it alone under a cloth. Nothing happens, and then everything does, so slowly that \
you only notice by coming back.

In the crème-coloured kitchen where I learned it, three generations shared one bowl 👩‍👩‍👧. The eldest judged \
the dough with the back of her finger. “It should feel like an earlobe,” she said, and we all touched our ears, \
solemn as judges. The youngest was allowed to cut the cross on top, so that the loaf could breathe.

What I remember is less the taste than the sound. When a loaf comes out of the oven and stands in the cool air, its \
crust crackles quietly, for minutes, as though it were telling itself a story. Bakers say that the bread is \
singing. We would lean over it with our hands behind our backs, and nobody spoke until it had finished. 🍞""",
    """\
A bridge is a promise made of stone: that somebody on this side will always have a reason to visit somebody on the \
other. The old one in our valley has five arches, no two alike, because it took sixty years to build and each mason \
believed that he knew better than the last. It leans a little into the current, like a person walking against the \
wind.

People stop in the middle. They have always done that; the parapet is worn into a row of shallow bowls by all those \
elbows. Seen from there, the river seems to start from under your feet. One day a traveller taught me the word 橋, \
and drew it with a wet finger on the warm stone. It had a tree in it, she said, because the first bridge anywhere \
was only a tree that had fallen the right way.

The word dried and was gone in a minute. I still look for it when I cross, and I still stop in the middle.""",
    """\
For eleven years two neighbours wrote each other letters, although their doors stood four steps apart. It had begun \
with a quarrel about a pear tree, when neither wished to speak first. A note appeared under a door; an answer lay on \
the other mat by evening. By the time the pears were ripe they had forgiven everything, but had grown fond of the \
paper.

So they went on. They wrote about weather that both could see from the window, about Zoë's new piano, about a dream \
in which the stairs led to the sea. Some days the whole letter was one line: “There is soup.” Some days it was a \
small drawing of a cat, with a heart ❤️ where the cat should have had its nose.

When he moved to the coast she sent him a cutting from the tree, wrapped in wet newspaper. His reply took three days \
instead of an afternoon. “It has two leaves,” he wrote, “and it leans towards you.”""",
    """\
The best map I ever owned was wrong. It showed a lake where there was a pine wood, and it put the village of \
A\u030angstro\u0308m on the sunny side of a hill that has no sunny side at all. I bought it from a man who admitted \
as much. “It is a good map,” he said, “for somebody who has time.”

I had time. I walked to the lake that was not there and ate my lunch on its imaginary shore. I asked the way eleven \
times, and eleven people told me a little more than the way: whose barn had burned, where the mushrooms were, which \
dog only pretended. An accurate map would have brought me there by noon, and I should have met nobody.

In the evening I marked the lake's true name in pencil: 森, forest, the sign with three trees in it. The map is \
nearly right by now. I am beginning to worry about it. 🗺️""",
    """\
Late at night a lighthouse looks busy, but its keeper will tell you that the work is mostly listening. There is the \
hum of the motor, the brush of moths on the glass, the sea turning over in its sleep. If any of these falls silent, \
you get up. Otherwise you make tea.

She had learned the trade from her father, and he from a book in Japanese that he could not read, with the word \
灯台 in gold on its cover and beautiful drawings of lenses. He had gone through it picture by picture until the \
lamp made sense. “You can understand almost anything,” he used to say, “if you stay in the room with it.”

Every ship that passed was a row of small lights being careful. She never learned where they were going, and they \
never learned her name; still, each of them was a little safer for the other's being awake. 👩🏽‍🚀 in space must feel \
like that, she thought, and put the kettle on again.""",
)
