"""Online over data that grows: waiting for the next segment."""

from __future__ import annotations

import time
from collections.abc import Callable

from streamtrain.prepare.plan import Plan, grown
from streamtrain.shards import FILE
from streamtrain.store import local_path
from streamtrain.store.remote import Store
from streamtrain.track.terminal import Terminal

LOOK_EVERY_SECONDS, ASK_EVERY_SECONDS = 0.5, 2.0
"""At the manifest in a folder, and for its size behind a URL, which every segment adds to."""


def wait_for_growth(plan: Plan, idle_timeout: float, terminal: Terminal, meanwhile: Callable[[], None]) -> Plan | None:
    """The plan over the grown data set, or ``None`` when nothing has come for ``idle_timeout`` seconds.

    Args:
        meanwhile: called at every look; what it raises ends the waiting.

    Raises:
        DataError: the data set is no longer the one that the run began with, and more.
    """
    ends = time.monotonic() + idle_timeout
    folder = local_path(plan.job.data.place)
    seen = 0
    store = Store(plan.job.data.place)
    every = LOOK_EVERY_SECONDS if folder else ASK_EVERY_SECONDS
    while True:
        changed = store.size(FILE) if folder is None else (folder / FILE).stat().st_mtime_ns
        if changed != seen:  # a large manifest is not read again for nothing
            seen = changed
            found = grown(plan)
            if found is not None:
                return found
        meanwhile()
        left = ends - time.monotonic()
        if left <= 0:
            return None
        terminal.live(f"waiting for new examples, {left:.0f} s left")
        time.sleep(min(every, left))
