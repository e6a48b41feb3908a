"""Steps as a type checker sees them: `make lint` checks this file, and nothing runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import assert_type

from holdfast import Cache, RunResponse, Workflow, step


class Typed(Workflow):
    @step
    def size(self, text: str, *, factor: int = 1) -> int:
        return len(text) * factor

    @step(cache=Cache("workflow", ttl="7d"), version="2")
    def write(self, topic: str) -> Iterator[RunResponse]:
        yield RunResponse(content=topic)

    @step(retries=2, timeout=30)
    async def fetch(self, url: str) -> bytes:
        return url.encode()

    @step(cache="session")
    async def stream(self, url: str) -> AsyncIterator[str]:
        yield url

    def run(self, topic: str) -> Iterator[RunResponse]:
        assert_type(self.size(topic, factor=2), int)
        assert_type(self.write(topic), Iterator[RunResponse])
        assert_type(self.step("size", len, topic), int)
        assert_type(self.parallel(partial(self.size, "a"), partial(self.size, "b"), limit=2), list[int])
        self.size(3)  # type: ignore[arg-type]
        self.size(topic, unknown=1)  # type: ignore[call-arg]
        self.step("size", self.size, 3)  # type: ignore[arg-type]
        yield from self.write(topic)

    async def later(self) -> None:
        assert_type(await self.fetch("a"), bytes)
        assert_type(await self.parallel(partial(self.fetch, "a"), partial(self.fetch, "b")), list[bytes])
        assert_type([piece async for piece in self.stream("a")], list[str])


@step(cache="global")
def shout(text: str) -> str:
    return text.upper()


assert_type(shout("a"), str)
with_options: Callable[[str], str] = step(shout, retries=1)
awaited: Callable[[Typed, str], Awaitable[bytes]] = Typed.fetch
