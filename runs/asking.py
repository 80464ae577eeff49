"""The models of a run: each is asked again while that may help, and the next one where it does not."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from infra.vault import Unsealable
from runs.agent import Conversation, ModelFailed, Reply, TooLong
from runs.providers import Choice, problem, server_key
from runs.secrets import NotForThem, Purse

if TYPE_CHECKING:
    from runs.model_client import Client

T = TypeVar("T")

DELAYS = (1.0, 2.0, 4.0, 8.0)  # seconds between the tries of one model
MAX_DELAY = 120.0
MAX_SILENCES = 3  # replies in a row that say and call nothing
SAID_NOTHING = "You said nothing. Call a tool, or `finish`."
CUT_OFF = "Your reply was too long and has been dropped. Call a tool, or `finish`, in fewer words."


class Repeat(Protocol):
    """Does something that a wish may break off, from its start after every interruption."""

    async def __call__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T: ...


class Models:
    """Those that one run may ask, the first one first; `close` them with its drive."""

    def __init__(
        self,
        choices: Sequence[Choice],
        purse: Purse,
        *,
        repeat: Repeat,
        say: Callable[[str], Awaitable[None]],
        spend: Callable[[Reply], Awaitable[None]],
    ) -> None:
        """`say` writes a line in the run's log; `spend` counts a reply that is not kept."""
        self._choices, self._purse = choices, purse
        self._repeat, self._say, self._spend = repeat, say, spend
        self._open: dict[Choice, Client] = {}

    async def ask(
        self,
        talk: Conversation,
        pictures: Callable[[], Awaitable[Mapping[str, bytes]]],
        heard: Callable[[], Callable[[str], None]],
    ) -> tuple[Reply, Choice]:
        """One reply, and the model that gave it. Raises what the last one failed with, ModelFailed."""
        for choice, following in zip(self._choices, (*self._choices[1:], None), strict=True):
            try:
                return await self._ask_one(choice, talk, pictures, heard), choice
            except ModelFailed as failure:
                then = f"asks {following.name} instead" if following else "no other model is left"
                await self._say(f"{choice.name} {failure}; {then}")
                if following is None:
                    await self.close()  # a key may be another one when it is asked again
                    raise
        raise RuntimeError("a run has at least one model")

    async def close(self) -> None:
        """Let the connections go."""
        while self._open:
            _, client = self._open.popitem()
            await client.close()

    async def _ask_one(
        self,
        choice: Choice,
        talk: Conversation,
        pictures: Callable[[], Awaitable[Mapping[str, bytes]]],
        heard: Callable[[], Callable[[str], None]],
    ) -> Reply:
        client = await self._client(choice)
        delays = iter(DELAYS)
        while True:
            shown = await pictures()
            try:
                return await self._answer(lambda: client.ask(talk, shown, heard()), talk)  # noqa: B023
            except TooLong as failure:
                if not talk.condense():
                    raise
                await self._say(f"{choice.name} {failure}; asks again and tells less of what is past")
            except ModelFailed as failure:
                delay = next(delays, None) if failure.again else None
                if delay is None:
                    raise
                delay = min(delay if failure.retry_after is None else failure.retry_after, MAX_DELAY)
                await self._say(f"{choice.name} {failure}; asks again in {delay:g} s")
                await self._rest(delay)

    async def _answer(self, ask: Callable[[], Coroutine[Any, Any, Reply]], talk: Conversation) -> Reply:
        """A reply that wants something done. Raises ModelFailed."""
        for _ in range(MAX_SILENCES + 1):
            reply = await self._repeat(ask)
            if reply.refusal is None and reply.wants:
                return reply
            await self._spend(reply)
            if reply.refusal is not None:
                raise ModelFailed("model_refused", reply.refusal)
            if (news := CUT_OFF if reply.cut else SAID_NOTHING) not in talk.told:
                talk.tell(news)
        raise ModelFailed("model_empty", "", again=True)

    async def _rest(self, seconds: float) -> None:
        """Wait; a wish that comes meanwhile is followed at once, and the time goes on."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        await self._repeat(lambda: asyncio.sleep(max(0.0, end - loop.time())))

    async def _client(self, choice: Choice) -> "Client":
        """The model, opened once. Raises ModelFailed."""
        if (client := self._open.get(choice)) is None:
            if why := problem(choice):
                raise ModelFailed("model_unusable", why)
            key = await self._repeat(lambda: self._key(choice))
            module = await asyncio.to_thread(import_module, "runs.model_client")
            client = self._open[choice] = module.Client(choice, key)
            await client.open()
        return client

    async def _key(self, choice: Choice) -> str | None:
        """What the user's secret holds, if the model's address is one that it is for. Raises ModelFailed."""
        if choice.secret is None:
            return server_key(choice) or None
        address = "/".join(choice.address.split("/")[:3])
        try:
            found = await self._purse.reveal([(choice.secret, "text")], [address])
        except NotForThem:
            raise ModelFailed("secret_refused", f"secrets.{choice.secret} is not for {address}") from None
        except Unsealable as error:
            raise ModelFailed("secret_unreadable", str(error)) from error
        if choice.secret not in found:
            raise ModelFailed("secret_missing", f"There is no secrets.{choice.secret} of kind text")
        return found[choice.secret]["text"]
