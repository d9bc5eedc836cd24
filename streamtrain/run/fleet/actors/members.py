"""Workers' actors, and what can be learnt of them: arrivals, answers, ends, and silence where a host was cut off."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from streamtrain.errors import StreamtrainError, TrainingError, WorkerLost, one_line
from streamtrain.run.fleet.cluster.room import Bundle, Place
from streamtrain.track.system import HERE, Usage

ANSWER_SECONDS = 5.0
"""Within which a process answers that is not lost."""
SLOWER = 3
"""How many times as long as the first the others may take for equal shares."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
LONGEST = 300
"""Characters that are kept of what Ray says where it names no reason."""


@dataclass(frozen=True)
class Member:
    """A worker, its streamers where it has some, and the bundle of a placement group that holds all."""

    bundle: Bundle
    worker: Any
    streamers: tuple[Any, ...]

    @property
    def actors(self) -> list[Any]:
        """The worker, then the others."""
        return [self.worker, *self.streamers]


def by_host(members: Sequence[Member], places: Mapping[int, Place]) -> tuple[list[Member], list[str]]:
    """The members, those of one host as neighbours, and the node of each; of one that Ray does not know, its own."""
    node = {each.bundle.number: str(each.bundle.number) for each in members}
    node |= {number: place.node for number, place in places.items()}
    nodes = list(dict.fromkeys(node[each.bundle.number] for each in members))
    ordered = sorted(members, key=lambda each: nodes.index(node[each.bundle.number]))
    return ordered, [node[each.bundle.number] for each in ordered]


def usage_of(
    members: Sequence[Member], places: Mapping[int, Place], gather: Callable[[Sequence[Any]], list[Any]]
) -> Usage:
    """What the hosts are used for, and one GPU of each, by address; `HERE` is the one that asks."""
    here = ray.get_runtime_context().get_node_id()
    asked: dict[str, Any] = {}
    for each in members:
        place = places.get(each.bundle.number)
        if place is not None:
            asked.setdefault(HERE if place.node == here else place.address, each.worker)
    return dict(zip(asked, gather([worker.usage.remote() for worker in asked.values()]), strict=True))


def offers(step: int, hosts: Sequence[Sequence[Member]], fresh: Sequence[Member]) -> list[Any]:
    """A call for each host: the block in which its workers meet, ``None`` where there is only one.

    Args:
        fresh: who got the state only now, and is not asked while others have it.
    """
    offering = [next((each for each in host if each not in fresh), host[0]) for host in hosts]
    return [
        each.worker.offer_memory.remote(step) if len(host) > 1 else ray.put(None)
        for each, host in zip(offering, hosts, strict=True)
    ]


class Arrivals:
    """Members who were called and are on their way."""

    def __init__(self) -> None:
        self._coming: list[tuple[Member, list[Any]]] = []

    def __len__(self) -> int:
        return len(self._coming)

    def expect(self, member: Member) -> None:
        """Takes note of one whose actors were made."""
        self._coming.append((member, [actor.__ray_ready__.remote() for actor in member.actors]))

    def expected(self) -> list[Member]:
        """Who is not lost on the way."""
        self._coming = [(each, calls) for each, calls in self._coming if _arrived(calls) is not False]
        return [each for each, _ in self._coming]

    def collect(self) -> list[Member]:
        """Who is there now; they are no longer expected."""
        self.expected()
        there = [each for each, calls in self._coming if _arrived(calls)]
        self._coming = [(each, calls) for each, calls in self._coming if each not in there]
        return there

    def dismiss(self, members: Sequence[Member]) -> None:
        """Does without them; an actor that one of ``members`` has stays."""
        theirs = [actor for each in members for actor in each.actors]
        kill(actor for each, _ in self._coming for actor in each.actors if actor not in theirs)
        self._coming = []


def _arrived(calls: Sequence[Any]) -> bool | None:
    """Whether somebody is there who was called: ``False`` when lost on the way, ``None`` while on it."""
    ended = ray.wait(list(calls), num_returns=len(calls), timeout=0)[0]
    try:
        ray.get(ended)
    except RayError:
        return False
    return True if len(ended) == len(calls) else None


def gather(calls: Sequence[Any], patience: float | None = None) -> list[Any]:
    """All results; or, once every call has ended, the error that the others follow from.

    Args:
        patience: seconds that the rest may take after one has failed, or, beside `SLOWER` times as long as the first,
            after one has answered: a host that is cut off is silent until Ray gives it up. ``None`` waits for all.

    Raises:
        WorkerLost: a worker died, or did not answer in time. TrainingError: what stopped one.
    """
    results: dict[int, Any] = {}
    failures: list[StreamtrainError] = []
    left = {call: index for index, call in enumerate(calls)}
    began = time.monotonic()
    until = math.inf
    while left:
        seconds = None if until == math.inf else max(0.0, until - time.monotonic())
        ended, _ = ray.wait(list(left), timeout=seconds)
        if not ended:
            silent = ", ".join(str(index) for index in left.values())
            failures.append(WorkerLost(f"worker {silent} has not answered for {time.monotonic() - began:.1f} s"))
            break
        for call in ended:
            index = left.pop(call)
            try:
                results[index] = ray.get(call)
            except RayError as error:
                failures.append(_cause(index, error))
        if patience is not None:
            now = time.monotonic()
            until = min(until, now + patience + (0.0 if failures else SLOWER * (now - began)))
    if failures:
        raise min(failures, key=lambda error: isinstance(error, WorkerLost))
    return [results[index] for index in range(len(calls))]


def living(actors: Sequence[Any], seconds: float = ANSWER_SECONDS) -> list[bool | None]:
    """Which of the actors live; ``None`` where one does not answer within so long."""
    pings = {actor.__ray_ready__.remote(): index for index, actor in enumerate(actors)}
    lives: list[bool | None] = [None] * len(actors)
    ended = ray.wait(list(pings), num_returns=len(pings), timeout=seconds)[0] if pings else []
    for ping in ended:
        try:
            ray.get(ping)
            lives[pings[ping]] = True
        except RayActorError:
            lives[pings[ping]] = False
    return lives


def keep_living(
    members: Sequence[Member], gather: Callable[[Sequence[Any]], list[Any]], *, scattered: bool
) -> list[Member]:
    """Who lives; the others are ended. A worker whose streamers are lost reads from those it has left, or itself.

    Args:
        gather: results of calls.
        scattered: whether some are on hosts that may have been cut off: who does not answer is lost then.

    Raises:
        Exception: what stopped a streamer that stopped by itself: the cause of its worker's loss.
    """
    actors = [actor for each in members for actor in each.actors]
    answers = dict(zip(actors, living(actors), strict=True))
    _raise_failure([each for member in members for each in member.streamers if answers[each]], gather)
    # on a host that cannot have been cut off, those who do not answer are at work
    alive = {actor: not scattered if answer is None else answer for actor, answer in answers.items()}
    left: list[Member] = []
    for each in members:
        if alive[each.worker]:
            left.append(replace(each, streamers=tuple(streamer for streamer in each.streamers if alive[streamer])))
        else:
            kill(each.actors)
    return left


def _raise_failure(streamers: Sequence[Any], gather: Callable[[Sequence[Any]], list[Any]]) -> None:
    failures: list[BaseException | None] = []
    with contextlib.suppress(WorkerLost):
        failures = gather([each.failure.remote() for each in streamers])
    for failure in failures:
        if failure is not None:
            raise failure


def kill(actors: Iterable[Any]) -> None:
    """Ends them; does not wait for it."""
    for actor in actors:
        ray.kill(actor)


def _cause(index: int, error: RayError) -> StreamtrainError:
    if isinstance(error, RayTaskError):
        cause = error.cause
        return cause if isinstance(cause, StreamtrainError) else TrainingError(f"worker {index}: {one_line(cause)}")
    return _raised_at_its_start(index, error) or WorkerLost(f"worker {index} died: {_reason(error)}")


def _raised_at_its_start(index: int, error: RayError) -> StreamtrainError | None:
    """What a worker's constructor raised, out of the traceback that Ray tells in colours; its last line is the cause.

    Others would raise the same, so it is not a lost worker's.
    """
    lines = [line.strip() for line in COLOURS.sub("", str(error)).splitlines() if line.strip()]
    if not lines or "creation task" not in lines[0]:
        return None
    name, _, message = lines[-1].partition(": ")
    for kind in _kinds(StreamtrainError):
        if name == f"{kind.__module__}.{kind.__qualname__}" and "__init__" not in vars(kind):
            return kind(message)
    return TrainingError(f"worker {index} could not begin: {lines[-1]}")


def _kinds(kind: type[StreamtrainError]) -> Iterator[type[StreamtrainError]]:
    """It, and all below it."""
    yield kind
    for each in kind.__subclasses__():
        yield from _kinds(each)


def _reason(error: RayError) -> str:
    """What Ray knows of a process's end, without its advice."""
    said = " ".join(COLOURS.sub("", str(error)).split())
    detail = re.search(r"Worker exit type: (\w+) Worker exit detail: (.*?)( Some common causes|$)", said)
    return f"{detail[2]} ({detail[1]})" if detail else said[:LONGEST]
