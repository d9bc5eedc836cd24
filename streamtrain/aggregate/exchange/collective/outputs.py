"""Bytes of all lanes to everybody: each worker's own to all others, by all-to-alls; first how many, then they.

Their number is not known ahead, so the host waits for it: a step that does this waits for a device too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from streamtrain.aggregate.exchange.collective.group import Membership
from streamtrain.aggregate.exchange.collective.mail import Send

SIZE = 8
"""Bytes of a number of bytes."""


def swap(send: Send, members: Membership, mine: Sequence[torch.Tensor]) -> dict[int, torch.Tensor]:
    """What the lanes of all others give, by lane.

    Args:
        mine: of this worker's lanes, in order; uint8, on the device that ``send`` sends from.
    """
    if members.workers == 1:
        return {}
    device = mine[0].device if mine else torch.device("cpu")
    own = torch.tensor([len(data) for data in mine], dtype=torch.int64, device=device).view(torch.uint8)
    theirs = [0 if peer == members.worker else SIZE * len(lanes) for peer, lanes in enumerate(members.hosting)]
    sizes = _sent(send, members, own, theirs).view(torch.int64).tolist()
    lanes = [lane for peer, hosted in enumerate(members.hosting) if peer != members.worker for lane in hosted]
    by_lane = dict(zip(lanes, sizes, strict=True))
    theirs = [
        0 if peer == members.worker else sum(by_lane[lane] for lane in hosted)
        for peer, hosted in enumerate(members.hosting)
    ]
    whole = torch.cat([*mine, own[:0]])
    return dict(zip(lanes, torch.split(_sent(send, members, whole, theirs), sizes), strict=True))


def _sent(send: Send, members: Membership, data: torch.Tensor, coming: list[int]) -> torch.Tensor:
    """The same to everybody else; what comes from them, one after the other."""
    leaving = [0 if peer == members.worker else len(data) for peer in range(members.workers)]
    into = torch.empty(sum(coming), dtype=torch.uint8, device=data.device)
    send(into, data.repeat(members.workers - 1), coming, leaving).wait()
    return into
