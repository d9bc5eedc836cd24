"""Neighbouring pieces of the vector that travel together: which part of them goes to whom, as messages laid out once.

Every worker sums a share of the pieces over all lanes, and sends the others the mean. Of two workers each sums
all of them: that is as many bytes, in one message instead of two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from streamtrain.aggregate.descent.rules import Block, Piece, choose_owner, join_pieces
from streamtrain.aggregate.exchange.collective.group import Membership
from streamtrain.aggregate.exchange.collective.mail import Mail, Part, Send
from streamtrain.aggregate.tree import Node, whole_subtrees
from streamtrain.aggregate.vector import ALIGNMENT, Layout

LEAST, SIZE = 2**18, 4 * 2**20
"""Bytes of the vector that travel together."""
Numbered = Sequence[tuple[int, Piece]]
"""Pieces, with their numbers."""


def cut(pieces: Sequence[Piece], itemsize: int, parts: int = 1) -> list[Numbered]:
    """Pieces with their numbers, from the last to the first, as backward makes gradients: in about so many parts.

    Each has between `LEAST` and `SIZE` bytes, but where a larger parameter is to stay whole.
    """
    most = min(SIZE, max(LEAST, pieces[-1].stop * itemsize // parts))
    buckets: list[list[tuple[int, Piece]]] = [[]]
    for number, piece in reversed(list(enumerate(pieces))):
        later = buckets[-1][0][1] if buckets[-1] else None
        divides = later is not None and later.whole is not None and later.whole == piece.whole
        if later is not None and (buckets[-1][-1][1].stop - piece.start) * itemsize > most and not divides:
            buckets.append([])
        buckets[-1].insert(0, (number, piece))
    return list(buckets)


def goes_ahead(pieces: Sequence[Piece], itemsize: int) -> bool:
    """Whether the vector is large enough for buckets that go while backward makes others to pay."""
    return pieces[-1].stop * itemsize > SIZE


class Bucket:
    """Some neighbouring pieces, and the messages in which their sums and means travel.

    Args:
        layout: of the model.
        pieces: of the bucket.
        membership: of the group.
        sums: this worker's whole subtrees' sums, vectors of the layout.
        rows: of all lanes, shape (lanes, bytes) of uint8, or (lanes, 0) where they do not travel with this bucket.
        reuse: whether a block's mean is used up before the next one's is made, where no others need it: in one
            place, which stays in the core's cache.

    Attributes:
        summed: this worker's share: a block, where its mean is to be made, and the parts of its sum by node.
        means: all blocks, and where the mean of each is.
        span: all elements of the bucket.
    """

    def __init__(
        self,
        layout: Layout,
        pieces: Numbered,
        membership: Membership,
        sums: Mapping[Node, torch.Tensor],
        rows: torch.Tensor,
        reuse: bool,
    ) -> None:
        self.span = slice(pieces[0][1].start, pieces[-1][1].stop)
        self._me = membership.worker
        self._hosting = membership.hosting
        self._rows = rows
        self._sums = sums
        me = self._me
        workers = range(membership.workers)
        device = next(iter(sums.values()), rows).device
        together = len(workers) <= 2
        shares = [pieces if together else _share(pieces, w, len(workers)) for w in workers]
        step = ALIGNMENT // layout.dtype.itemsize
        self._spans = [_span(share, step) for share in shares]
        self._norms = [slice(2 * share[0][0], 2 * share[-1][0] + 2) if share else slice(0, 0) for share in shares]

        def mail(part: Callable[[int, int], list[Part]]) -> Mail:
            return Mail(me, [part(me, w) for w in workers], [part(w, me) for w in workers], device)

        def contribution(source: int, target: int) -> list[Part]:
            nodes = whole_subtrees(membership.lanes, self._hosting[source])
            part = (_length(self._spans[target]), layout.dtype)
            return [(self._rows_of(source).numel(), torch.uint8), *[part] * len(nodes)]

        def mean(source: int, _: int) -> list[Part]:
            return [(_length(self._norms[source]), torch.float64), (_length(self._spans[source]), layout.dtype)]

        self._contributions = mail(contribution)
        self._updates = None if together else mail(mean)
        parts = {node: vector[self._spans[me]] for node, vector in sums.items()}
        for source, message in self._contributions.received.items():
            parts |= dict(zip(whole_subtrees(membership.lanes, self._hosting[source]), message[1:], strict=True))
        own = list(self._places(me, shares[me]))
        lows = [place.start // step * step if reuse and together else 0 for _, place in own]
        longest = max((place.stop - low for (_, place), low in zip(own, lows, strict=True)), default=0)
        self._mean = torch.zeros(longest, dtype=layout.dtype, device=device)
        self.summed = [
            (
                block,
                self._mean[place.start - low : place.stop - low],
                {node: part[place] for node, part in parts.items()},
            )
            for (block, place), low in zip(own, lows, strict=True)
        ]
        self.means = [(block, mean) for block, mean, _ in self.summed]
        for source, (_, means) in self._updates.received.items() if self._updates else ():
            self.means += [(block, means[place]) for block, place in self._places(source, shares[source])]

    def post(self, send: Send) -> None:
        """Begins to send this worker's rows and sums, which stay as they are until `wait`."""
        for target, (rows, *parts) in self._contributions.to.items():
            rows.copy_(self._rows_of(self._me))
            for part, vector in zip(parts, self._sums.values(), strict=True):
                part.copy_(vector[self._spans[target]])
        self._contributions.post(send)

    def wait(self) -> None:
        """Returns when everybody's rows and sums are there."""
        self._contributions.wait()
        for source, (rows, *_) in self._contributions.received.items():
            self._rows_of(source).copy_(rows)

    def post_means(self, norms: torch.Tensor, send: Send) -> None:
        """Begins to send the means of this worker's share, and of ``norms`` those of its pieces."""
        if self._updates is not None:
            for own, mean in self._updates.to.values():
                own.copy_(norms[self._norms[self._me]])
                mean.copy_(self._mean)
            self._updates.post(send)

    def wait_for_means(self, norms: torch.Tensor) -> None:
        """Returns when everybody's means are there, and the norms in ``norms``."""
        if self._updates is not None:
            self._updates.wait()
            for source, (theirs, _) in self._updates.received.items():
                norms[self._norms[source]] = theirs

    def _rows_of(self, worker: int) -> torch.Tensor:
        hosted = self._hosting[worker]
        return self._rows[hosted.start : hosted.stop].view(-1)

    def _places(self, worker: int, share: Numbered) -> Iterator[tuple[Block, slice]]:
        """Blocks of a worker's share, and where they are in its part of the messages."""
        start = self._spans[worker].start
        for block in join_pieces(share):
            yield block, slice(block.place.start - start, block.place.stop - start)


def _share(pieces: Numbered, worker: int, workers: int) -> Numbered:
    plain = [piece for _, piece in pieces]
    return [(number, piece) for number, piece in pieces if choose_owner(piece, plain, workers) == worker]


def _span(pieces: Numbered, step: int) -> slice:
    """Their elements, from an aligned place on, so that norms have the bits that they have in one block of memory."""
    return slice(pieces[0][1].start // step * step, pieces[-1][1].stop) if pieces else slice(0, 0)


def _length(place: slice) -> int:
    length: int = place.stop - place.start
    return length
