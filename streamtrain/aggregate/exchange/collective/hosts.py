"""Which workers are on the same host, and what that makes of a formation: pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from streamtrain.aggregate.exchange.collective.group import Membership


def group_by_host(nodes: Sequence[str], *, together: bool) -> tuple[range, ...]:
    """The workers of each host.

    Args:
        nodes: every worker's; those of the same are neighbours.
        together: whether workers of one host meet in its memory; else each is taken for a host of its own.
    """
    hosts = []
    first = 0
    for _, group in groupby(enumerate(nodes), lambda pair: pair[1] if together else pair[0]):
        end = first + len(list(group))
        hosts.append(range(first, end))
        first = end
    return tuple(hosts)


def find_memberships(hosts: Sequence[range], hosting: Sequence[range], worker: int) -> tuple[Membership, Membership]:
    """The hosts and their lanes, and the workers of this one's host and theirs.

    Args:
        hosts: the workers of each host.
        hosting: the lanes of each worker.
        worker: this one.
    """
    lanes = [hosting[each.start : each.stop] for each in hosts]
    host = next(index for index, each in enumerate(hosts) if worker in each)
    between = Membership(host, tuple(range(each[0].start, each[-1].stop) for each in lanes))
    return between, Membership(worker - hosts[host].start, tuple(lanes[host]))
