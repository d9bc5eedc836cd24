"""How far a run is: told on the terminal while it trains, kept in its folder for `streamtrain status`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from streamtrain.run.folder import RunFolder, running_below
from streamtrain.run.outcome.wording import with_error
from streamtrain.track.terminal import Terminal
from streamtrain.track.tracker import NoTracker
from streamtrain.values import Reading, known

if TYPE_CHECKING:
    from streamtrain.measure.run_curves import Stint
    from streamtrain.prepare.plan import Plan
    from streamtrain.run.checkpoints.progress import Progress


@dataclass(frozen=True)
class LiveStatus:
    """After a stint.

    Attributes:
        pass_number, passes: the pass that it is in, from 1, of at most so many.
        step, steps: of the pass.
        examples_per_second, workers, waiting_share: of the stint; the share of the workers' time without examples.
        loss: mean over the stint. gap, gap_standard_error: of the loss, at the last evaluation; ``None`` if unknown.
        seconds_left: at most. time: when this was (Unix seconds).
    """

    pass_number: int
    passes: int
    step: int
    steps: int
    examples_per_second: float
    workers: int
    waiting_share: float
    loss: float
    gap: float | None
    gap_standard_error: float | None
    seconds_left: float
    time: float

    @classmethod
    def of(
        cls, plan: Plan, progress: Progress, stint: Stint, workers: int, waiting_share: float, most_seconds: float
    ) -> Self:
        """Of a run that ends in ``most_seconds`` at the latest."""
        order = plan.order
        position = order.position(progress.step - 1)
        used = order.examples_before(order.position(progress.step))
        gap = progress.evaluations[-1].gap_of_loss if progress.evaluations else None
        return cls(
            pass_number=position.pass_index + 1,
            passes=plan.passes,
            step=position.step + 1,
            steps=order.steps_of(position.pass_index),
            examples_per_second=stint.examples_per_second,
            workers=workers,
            waiting_share=waiting_share,
            loss=stint.loss,
            gap=None if gap is None else gap.value,
            gap_standard_error=None if gap is None else known(gap.standard_error),
            seconds_left=min((plan.total_examples / used - 1) * progress.seconds, most_seconds),
            time=time.time(),
        )

    @property
    def facts(self) -> tuple[str, ...]:
        """What the terminal's live line says."""
        return (
            f"pass {self.pass_number}/{self.passes}",
            f"step {self.step:,}/{self.steps:,}",
            f"{self.examples_per_second:,.0f} examples/s",
            f"loss {self.loss:.4f}",
            *(() if self.gap is None else (f"gap {self.gap:+.4f}",)),
            f"{duration(self.seconds_left)} left at most",
        )

    @property
    def part(self) -> float:
        """Of all passes that the run may make, how much is done, from 0 to 1."""
        return (self.pass_number - 1 + self.step / self.steps) / self.passes

    def keep(self, folder: RunFolder) -> None:
        """Puts it into the run's folder in place of the one before; not made to outlive a crash of the machine."""
        fresh = folder.status.with_name(f".{folder.status.name}")
        with contextlib.suppress(OSError):  # on a full disk it is an old one; who runs into that says so
            fresh.write_text(json.dumps(asdict(self)))
            fresh.replace(folder.status)


class FirstSteps(NoTracker):
    """Says on the terminal how long it took until the first stint had ended.

    Args:
        began: when the run began (Unix seconds).
    """

    def __init__(self, began: float, terminal: Terminal) -> None:
        self._began = began
        self._terminal = terminal
        self._is_said = False

    def log(self, readings: Sequence[Reading]) -> None:
        """The first points mean that the first stint has ended; what they say does not matter here."""
        if not self._is_said:
            self._is_said = True
            self._terminal.line(f"first steps after {time.time() - self._began:.1f} s")


@dataclass(frozen=True)
class RunStatus:
    """A run's folder: ``state`` is running, finished or stopped; ``status`` is ``None`` before the first stint."""

    folder: Path
    state: str
    status: LiveStatus | None

    def summary(self) -> dict[str, Any]:
        """As JSON's types."""
        return {"folder": str(self.folder), "state": self.state} | ({} if self.status is None else asdict(self.status))

    def __str__(self) -> str:
        if self.status is None:
            return f"{self.folder}  {self.state}\n  before its first steps"
        now = self.status
        left = now.facts[:-1] if self.state != "running" else now.facts
        gap = "" if now.gap is None else f"gap {with_error(now.gap, now.gap_standard_error, sign=True)}"
        facts = [gap if fact.startswith("gap ") else fact for fact in left]
        facts += [f"{now.workers} worker(s)", f"{now.waiting_share:.0%} of their time waiting for examples"]
        return f"{self.folder}  {self.state}\n  {' · '.join(facts)}\n  {duration(time.time() - now.time)} ago"


def status_of(folder: Path) -> RunStatus:
    """How the run in this folder stands.

    Raises:
        ConfigError: there is none.
    """
    run = RunFolder(folder)
    state = run.state()
    status = LiveStatus(**json.loads(run.status.read_text())) if run.status.exists() else None
    return RunStatus(folder, state, status)


def running(parent: Path) -> list[RunStatus]:
    """The runs below ``parent`` that are running, the first one first."""
    return [status_of(folder.path) for folder in running_below(parent)]


def duration(seconds: float) -> str:
    """In minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
