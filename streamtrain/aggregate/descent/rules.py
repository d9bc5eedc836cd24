"""Which settings hold for which elements of the vector, and the fixed pieces in which it is worked on.

A piece is what a norm is taken of. Pieces follow from the model and the settings alone, never from the
number of workers, so norms have the same bits for any number of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby

from streamtrain.aggregate.vector import Layout, Place
from streamtrain.errors import ConfigError, complaint
from streamtrain.job.optimizers import SGD, Group

CHUNK = 32768
"""Most elements of a piece."""
BLOCK = 2 * CHUNK
"""Most elements that are worked on by one call: few calls cost less, but they shall fit in a core's cache."""


@dataclass(frozen=True)
class Rule:
    """The settings of one group. ``clipped_with`` says with whom its norm is clipped: 0 for all that have no own."""

    lr_factor: float
    momentum: float
    dampening: float
    nesterov: bool
    weight_decay: float
    clip_value: float | None
    clip_adaptive: float | None
    clip_norm: float | None
    clipped_with: int


@dataclass(frozen=True)
class Piece:
    """Elements ``[start, stop)`` under one rule; ``unit`` is the length of their units where these are clipped."""

    start: int
    stop: int
    rule: Rule
    unit: int = 0

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


def match_rules(sgd: SGD, layout: Layout) -> tuple[Rule, ...]:
    """Every parameter's rule, in the layout's order.

    Raises:
        ConfigError: a group that no parameter is in.
    """
    own = [_rule(sgd, group, index + 1) for index, group in enumerate(sgd.groups)]
    rest = _rule(sgd, None, 0)
    patterns = [group.pattern for group in sgd.groups]
    found = [
        next((own[i] for i, p in enumerate(patterns) if fnmatchcase(place.name, p)), rest)
        for place in layout.parameters
    ]
    for pattern in patterns:
        if not any(fnmatchcase(place.name, pattern) for place in layout.parameters):
            names = ", ".join(place.name for place in layout.parameters[:8])
            do = "correct the pattern"
            raise ConfigError(complaint("sgd.groups", expected=f"parameters named {pattern!r}", found=names, do=do))
    return tuple(found)


def cut_pieces(sgd: SGD, layout: Layout) -> tuple[Piece, ...]:
    """All pieces, in order; they cover every parameter.

    Cut at the borders between parameters and at multiples of `CHUNK`; where units are clipped, between units.
    """
    pieces: list[Piece] = []
    for rule, run in groupby(zip(match_rules(sgd, layout), layout.parameters, strict=True), lambda pair: pair[0]):
        places = [place for _, place in run]
        if rule.clip_adaptive is None:
            pieces += [piece for place in places for piece in _cut(place.start, layout.end(place), rule)]
        else:
            pieces += [piece for place in places for piece in _units(place, rule)]
    return tuple(pieces)


def choose_owner(piece: Piece, pieces: Sequence[Piece], workers: int) -> int:
    """The worker that sums and updates a piece: all own neighbouring pieces, of about as many elements."""
    start, stop = pieces[0].start, pieces[-1].stop
    return ((piece.start + piece.stop) // 2 - start) * workers // (stop - start)


def take_share(pieces: tuple[Piece, ...], worker: int, workers: int) -> tuple[Block, ...]:
    """What ``worker`` sums and updates."""
    return join_pieces([(n, piece) for n, piece in enumerate(pieces) if choose_owner(piece, pieces, workers) == worker])


def join_pieces(numbered: Iterable[tuple[int, Piece]]) -> tuple[Block, ...]:
    """Pieces with their numbers, neighbours joined."""
    blocks: list[Block] = []
    for number, piece in numbered:
        last = blocks[-1].pieces if blocks else ()
        joins = last and last[-1].stop == piece.start and last[-1].rule == piece.rule and not piece.unit
        if joins and piece.stop - last[0].start <= BLOCK:
            blocks[-1] = Block(blocks[-1].first, (*last, piece))
        else:
            blocks.append(Block(number, (piece,)))
    return tuple(blocks)


def _rule(sgd: SGD, group: Group | None, number: int) -> Rule:
    def setting(name: str) -> float | None:
        """The group's, or where it has none, the whole's; 0 turns a clipping off."""
        own: float | None = getattr(group, name, None)
        value: float | None = getattr(sgd, name) if own is None else own
        return value or None

    own_norm = group is not None and group.clip_norm is not None
    return Rule(
        lr_factor=1.0 if group is None else group.lr_factor,
        momentum=setting("momentum") or 0.0,
        dampening=sgd.dampening,
        nesterov=sgd.nesterov,
        weight_decay=setting("weight_decay") or 0.0,
        clip_value=setting("clip_value"),
        clip_adaptive=setting("clip_adaptive"),
        clip_norm=setting("clip_norm"),
        clipped_with=number if own_norm else 0,
    )


def _cut(start: int, stop: int, rule: Rule) -> Iterator[Piece]:
    while start < stop:
        end = min((start // CHUNK + 1) * CHUNK, stop)
        yield Piece(start, end, rule)
        start = end


def _units(place: Place, rule: Rule) -> Iterator[Piece]:
    """A unit is one output's weights; a vector (a bias, a scale) is one unit."""
    whole = place.stop - place.start
    unit = whole // place.shape[0] if len(place.shape) > 1 and whole else whole
    step = max(1, CHUNK // max(1, unit)) * max(1, unit)
    for start in range(place.start, place.stop, step):
        yield Piece(start, min(start + step, place.stop), rule, unit)
