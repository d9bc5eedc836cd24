"""Which workers share a host, as pure arithmetic."""

from streamtrain.aggregate.exchange.collective.group import Membership
from streamtrain.aggregate.exchange.collective.hosts import find_memberships, group_by_host
from streamtrain.order import hosting_of


def test_workers_of_a_host_are_one_member_between_hosts() -> None:
    hosts = group_by_host(["a", "a", "b"], together=True)
    assert hosts == (range(2), range(2, 3))
    hosting = hosting_of(8, 3)
    between, crew = find_memberships(hosts, hosting, 1)
    assert between == Membership(0, (range(hosting[1].stop), hosting[2]))
    assert crew == Membership(1, tuple(hosting[:2]))
    assert find_memberships(hosts, hosting, 2) == (Membership(1, between.hosting), Membership(0, (hosting[2],)))


def test_each_is_a_host_of_its_own_where_memory_cannot_be_shared() -> None:
    assert group_by_host(["a", "a", "b"], together=False) == (range(1), range(1, 2), range(2, 3))
