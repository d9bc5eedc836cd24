"""The update's settings: which hold for which elements of the vector, and the fixed pieces in which it is worked on.

A piece is what a norm is taken of. Pieces follow from the model and the settings alone, never from the
number of workers, so norms have the same bits for any number of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import groupby

import torch

from streamtrain.aggregate.optimizers.sgd import SGD
from streamtrain.aggregate.state import AVERAGE, PARAMETERS, Vectors
from streamtrain.aggregate.vector import Layout, Place
from streamtrain.errors import ConfigError, complaint
from streamtrain.job import Job
from streamtrain.job.update import Average, Clip, Group, Optimizer, Schedule

HALVES = torch.float16, torch.bfloat16
CHUNK = 32768
"""Most elements of a piece."""
BLOCK = 2 * CHUNK
"""Most elements that are worked on by one call: few calls cost less, but they shall fit in a core's cache."""


@dataclass(frozen=True)
class Descent:
    """All that a job says of the update, its defaults filled in; fields as in `Job`."""

    optimizer: Optimizer = field(default_factory=SGD)
    clip: Clip = field(default_factory=Clip)
    schedule: Schedule | Callable[[int], float] = field(default_factory=Schedule)
    groups: tuple[Group, ...] = ()
    average: Average = field(default_factory=Average)
    nonfinite: str = "stop"
    skip_limit: int = 10

    @classmethod
    def of(cls, job: Job) -> Descent:
        """A job's."""
        optimizer = SGD() if job.optimizer is None else job.optimizer
        return cls(optimizer, job.clip, job.schedule, job.groups, job.average, job.nonfinite, job.skip_limit)


def with_optimizer(job: Job) -> Job:
    """The job, with the optimizer that it has by default where it names none."""
    return job if job.optimizer is not None else dataclasses.replace(job, optimizer=Descent.of(job).optimizer)


@dataclass(frozen=True)
class Rule:
    """The settings of one group.

    Attributes:
        optimizer: with the group's settings.
        lr_factor: of the rate.
        clip: bounds, each of them or ``None``.
        clipped_with: with whom its norm is clipped: 0 for all that have no own.
    """

    optimizer: Optimizer
    lr_factor: float
    clip: Clip
    clipped_with: int


@dataclass(frozen=True)
class Piece:
    """Elements ``[start, stop)`` under one rule.

    ``unit`` is the length of their units where these are clipped; ``whole`` the parameter that they are a part of where
    the optimizer takes it whole, or the model: one worker then has all of its pieces, in one block.
    """

    start: int
    stop: int
    rule: Rule
    unit: int = 0
    whole: Place | None = None

    @functools.cached_property
    def place(self) -> slice:
        """Its elements."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Block:
    """Neighbouring pieces under one rule, worked on together; ``first`` is the number of the first of them."""

    first: int
    pieces: tuple[Piece, ...]

    @functools.cached_property
    def rule(self) -> Rule:
        """Of all its pieces."""
        return self.pieces[0].rule

    @functools.cached_property
    def place(self) -> slice:
        """Its elements."""
        return slice(self.pieces[0].start, self.pieces[-1].stop)

    @functools.cached_property
    def sizes(self) -> list[int]:
        """Elements of each piece."""
        return [piece.stop - piece.start for piece in self.pieces]

    @functools.cached_property
    def whole(self) -> Place | None:
        """The parameter that it is, where the optimizer takes it whole; its place in the block."""
        whole = self.pieces[0].whole
        return None if whole is None else dataclasses.replace(whole, start=0, stop=whole.stop - whole.start)

    def move(
        self, rate: float, gradient: torch.Tensor, old: Vectors, new: Vectors, updates: int | torch.Tensor
    ) -> None:
        """The optimizer's `move` of some of its elements, or of the parameter that it is; arguments as there."""
        place = self.whole
        if place is None:
            self.rule.optimizer.move(rate, gradient, old, new, updates)
            return
        before, after = ({name: place.view(vector) for name, vector in each.items()} for each in (old, new))
        first = updates if isinstance(updates, int) else updates[0]
        self.rule.optimizer.move(rate, place.view(gradient), before, after, first)


def match_rules(descent: Descent, layout: Layout) -> tuple[Rule, ...]:
    """Every parameter's rule, in the layout's order.

    Raises:
        ConfigError: a group that no parameter is in, or with settings that its optimizer does not have.
    """
    patterns = [group.pattern for group in descent.groups]
    _check_optimizer(descent, layout)
    whole = descent.optimizer.fitted(layout)
    rules: dict[tuple[int, int], Rule] = {}
    found = []
    for place in layout.parameters:
        group = next((n for n, pattern in enumerate(patterns, 1) if fnmatchcase(place.name, pattern)), 0)
        optimizer = whole.of(place.name, place.shape)
        key = group, id(optimizer)
        rules[key] = rules.get(key) or _rule(descent, whole, optimizer, group)
        found.append(rules[key])
    for pattern in patterns:
        if not any(fnmatchcase(place.name, pattern) for place in layout.parameters):
            names = ", ".join(place.name for place in layout.parameters[:8])
            do = "correct the pattern"
            raise ConfigError(complaint("groups", expected=f"parameters named {pattern!r}", found=names, do=do))
    return tuple(found)


def vectors_of(descent: Descent, layout: Layout) -> tuple[str, ...]:
    """Names of the vectors that a state has, in its order."""
    kept = dict.fromkeys(name for rule in match_rules(descent, layout) for name in rule.optimizer.vectors())
    return (PARAMETERS, *kept, *((AVERAGE,) if descent.average.is_kept else ()))


def count_numbers(descent: Descent, layout: Layout) -> int:
    """How many numbers the optimizer keeps beside the vectors."""
    return descent.optimizer.fitted(layout).numbers()


def cut_pieces(descent: Descent, layout: Layout) -> tuple[Piece, ...]:
    """All pieces, in order; they cover every parameter.

    Cut at the borders between parameters and at multiples of `CHUNK`; where units are clipped, between units.
    """
    pieces: list[Piece] = []
    for rule, run in groupby(zip(match_rules(descent, layout), layout.parameters, strict=True), lambda pair: pair[0]):
        places = [place for _, place in run]
        if rule.clip.adaptive is None:
            pieces += [piece for place in places for piece in _cut(place, layout.end(place), rule)]
        else:
            pieces += [piece for place in places for piece in _units(place, rule)]
    if descent.optimizer.together == "model":
        model = Place("model", 0, layout.size, (layout.size,))
        pieces = [dataclasses.replace(piece, whole=model) for piece in pieces]
    return tuple(pieces)


def choose_owner(piece: Piece, pieces: Sequence[Piece], workers: int) -> int:
    """The worker that sums and updates a piece: all own neighbouring pieces, of about as many elements."""
    start, stop = pieces[0].start, pieces[-1].stop
    part = piece.whole or piece
    return ((part.start + part.stop) // 2 - start) * workers // (stop - start)


def take_share(pieces: tuple[Piece, ...], worker: int, workers: int) -> tuple[Block, ...]:
    """What ``worker`` sums and updates."""
    return join_pieces([(n, piece) for n, piece in enumerate(pieces) if choose_owner(piece, pieces, workers) == worker])


def join_pieces(numbered: Iterable[tuple[int, Piece]]) -> tuple[Block, ...]:
    """Pieces with their numbers, neighbours joined."""
    blocks: list[Block] = []
    for number, piece in numbered:
        last = blocks[-1].pieces if blocks else ()
        joins = last and last[-1].stop == piece.start and last[-1].rule == piece.rule and not piece.unit
        small = joins and piece.stop - last[0].start <= BLOCK
        if last and piece.whole == last[0].whole and (piece.whole or small):
            blocks[-1] = Block(blocks[-1].first, (*last, piece))
        else:
            blocks.append(Block(number, (piece,)))
    return tuple(blocks)


def _check_optimizer(descent: Descent, layout: Layout) -> None:
    """Whether it has anything to move, and is right for the parameters' type and for what is set beside it."""
    optimizer = descent.optimizer
    names = ", ".join(f"{place.name} {place.shape}" for place in layout.parameters[:8])
    if not any(optimizer.of(place.name, place.shape) is optimizer for place in layout.parameters):
        expected, do = f"a parameter that {type(optimizer).__name__} itself moves", "use another optimizer"
        raise ConfigError(complaint("optimizer", expected=expected, found=names, do=do))
    if layout.dtype in HALVES and not all(part.takes_halves for part in optimizer.parts()):
        expected = f"parameters of at least 32 bits for {type(optimizer).__name__}"
        do = "use precision=bf16, which computes in 16 bits and keeps parameters in 32"
        raise ConfigError(complaint("optimizer", expected=expected, found=str(layout.dtype), do=do))
    if optimizer.together == "model":
        kind = f"st.{type(optimizer).__name__}"
        if descent.groups:
            expected, do = f"none with {kind}", "make parameter groups in its function"
            raise ConfigError(complaint("groups", expected=expected, found=str(len(descent.groups)), do=do))
        if descent.clip.adaptive is not None:
            expected, found = f"none with {kind}", str(descent.clip.adaptive)
            raise ConfigError(complaint("clip.adaptive", expected=expected, found=found, do="use clip.norm"))


def _rule(descent: Descent, whole: Optimizer, optimizer: Optimizer, number: int) -> Rule:
    """Of the parameters in a group, 0 for none, that one of the whole optimizer's parts moves."""
    group = descent.groups[number - 1] if number else Group("*")
    optimizer = group.optimizer(optimizer)
    lr_factor = group.lr_factor * (optimizer.lr / whole.lr)
    clipped_with = 0 if group.clip.norm is None else number
    return Rule(optimizer, lr_factor, descent.clip.of_group(group.clip), clipped_with)


def _whole(place: Place, rule: Rule) -> Place | None:
    return place if rule.optimizer.together == "parameter" else None


def _cut(place: Place, stop: int, rule: Rule) -> Iterator[Piece]:
    start = place.start
    while start < stop:
        end = min((start // CHUNK + 1) * CHUNK, stop)
        yield Piece(start, end, rule, whole=_whole(place, rule))
        start = end


def _units(place: Place, rule: Rule) -> Iterator[Piece]:
    """A unit is one output's weights; a vector (a bias, a scale) is one unit."""
    whole = place.stop - place.start
    unit = whole // place.shape[0] if len(place.shape) > 1 and whole else whole
    step = max(1, CHUNK // max(1, unit)) * max(1, unit)
    for start in range(place.start, place.stop, step):
        yield Piece(start, min(start + step, place.stop), rule, unit, _whole(place, rule))
