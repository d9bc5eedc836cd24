"""What to fetch, keep and drop of a known order: beside the obvious simulation, and beside every other choice."""

import functools

from hypothesis import given, settings
from hypothesis import strategies as some

from streamtrain.stream.fetch.farthest import Visit, visits

orders = some.lists(some.integers(0, 7), max_size=40)


def carried_out(plan: list[Visit], uses: list[int], sizes: dict[int, int], room: int) -> int:
    """Bytes fetched; every use is there when it comes, and what is kept has room."""
    kept: set[int] = set()
    fetched = 0
    assert [visit.unit for visit in plan] == uses
    for visit in plan:
        assert set(visit.leaving) <= kept and len(set(visit.leaving)) == len(visit.leaving)
        kept -= set(visit.leaving)
        assert visit.comes == (visit.unit not in kept)
        fetched += sizes[visit.unit] * visit.comes
        kept |= {visit.unit} if visit.stays else set()
        assert visit.stays or visit.comes, "what is there leaves when another comes"
        assert sum(sizes[unit] for unit in kept) <= room
    return fetched


def belady(uses: list[int], places: int) -> int:
    """Fetches of the one who looks through all that comes, each time; what comes need not be kept."""
    kept: set[int] = set()
    fetched = 0
    for at, unit in enumerate(uses):
        if unit in kept:
            continue
        fetched += 1
        kept.add(unit)
        if len(kept) > places:
            coming = uses[at + 1 :]
            kept.remove(max(kept, key=lambda each: coming.index(each) if each in coming else len(uses)))
    return fetched


def fewest(uses: list[int], places: int) -> int:
    """Fetches of the best of all choices."""

    @functools.cache
    def of(at: int, kept: frozenset[int]) -> int:
        if at == len(uses):
            return 0
        if uses[at] in kept:
            return of(at + 1, kept)
        after = [kept, *(kept - {out} | {uses[at]} for out in kept)]
        if len(kept) < places:
            after.append(kept | {uses[at]})
        return 1 + min(of(at + 1, each) for each in after)

    return of(0, frozenset())


@settings(max_examples=300)
@given(orders, some.integers(0, 6))
def test_it_fetches_as_much_as_the_obvious_simulation(uses: list[int], places: int) -> None:
    plan = list(visits(uses, lambda _: 1, places, looked_ahead=100))
    fetched = carried_out(plan, uses, dict.fromkeys(range(8), 1), places)
    assert fetched == belady(uses, places)


@settings(max_examples=100)
@given(some.lists(some.integers(0, 4), max_size=14), some.integers(3, 4))
def test_no_other_choice_fetches_less(uses: list[int], places: int) -> None:
    assert sum(visit.comes for visit in visits(uses, lambda _: 1, places)) == fewest(uses, places)


@settings(max_examples=300)
@given(orders, some.lists(some.integers(1, 9), min_size=8, max_size=8), some.integers(0, 40), some.integers(1, 50))
def test_any_sizes_have_room_however_little_is_looked_ahead(
    uses: list[int], sizes: list[int], room: int, looked_ahead: int
) -> None:
    plan = list(visits(uses, sizes.__getitem__, room, looked_ahead))
    carried_out(plan, uses, dict(enumerate(sizes)), room)


@settings(max_examples=20)
@given(some.randoms(use_true_random=False), some.integers(4, 20))
def test_what_is_looked_ahead_is_enough_for_permutations(random: object, places: int) -> None:
    """Passes over 80 units, each used three times in one: within a fiftieth of who looks at everything."""
    uses = [unit for _ in range(2) for unit in random.sample(3 * [*range(80)], 240)]  # type: ignore[attr-defined]
    fetched = sum(visit.comes for visit in visits(uses, lambda _: 1, places, looked_ahead=80))
    assert belady(uses, places) <= fetched <= 1.02 * belady(uses, places)
