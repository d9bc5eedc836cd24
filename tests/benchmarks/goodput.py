"""Useful examples/s while faults come at regular times, over undisturbed ones; beside DDP restarted by torchrun.

    python -m tests.benchmarks.goodput [--json] [--kinds worker half driver host ddp] [--every 30] [--seconds 60]

Four workers train a small MLP with SGD, minibatch 128. For the work of an accelerator a wait stands, of 25 ms a worker
and step: so a worker has a pace of its own, whatever else the cores do, and two workers half of that of four. A fault
comes first after half of the given seconds, then every so many: SIGKILL to one worker, to half of them at once, to the
driver, which is started again at once with `--resume`, or to all that runs on one of two hosts (network namespaces,
which need root), whose Ray is started again at once. DDP has gloo, the same model, minibatch and wait, tensors in
memory, and processes of torchrun, which starts all of them again where one was killed; both save every `--save-every`
seconds. A run has as many steps as undisturbed ones make in the given seconds, or in twice the time between faults;
its time is from the first points to the last step, start left out, restarts not.

Checked: every run of ours ends with the SHA-256 of the parameters that one worker in one process ends with, and has
each point of its loss once, the same. `half_lost_vs_fair_share`: from the kill of half of the workers until all are
there again, half of the undisturbed examples over those made.
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks.measuring import report
from tests.benchmarks.of_goodput.ddp import Ddp
from tests.benchmarks.of_goodput.faults import BATCH, WORKERS, Setting, rate
from tests.benchmarks.of_goodput.ours import Ours, Run, packed, reference, two_hosts
from tests.support.ray_hosts import missing

STEP_SECONDS = 0.025
UNDISTURBED_SECONDS = 20.0
KINDS = ("worker", "half", "driver", "host", "ddp")


class Goodput:
    """All runs of one call, in a folder.

    Attributes:
        figures: of what was measured, by name.
        ratios: the same.
    """

    def __init__(self, folder: Path, seconds: float, save_every: float) -> None:
        self._folder, self._seconds, self._save_every = folder, seconds, save_every
        self._data = packed(folder)
        self._references: dict[int, Run] = {}
        self._undisturbed: dict[str, float] = {}
        self.figures: dict[str, float] = {}
        self.ratios: dict[str, float] = {}

    def measure(self, kind: str, every: float) -> None:
        """Runs with faults of a kind, after one without where there was none yet."""
        if kind == "ddp":
            self._measure_ddp(every)
            return
        fleet = "two hosts" if kind == "host" else "ours"
        if fleet not in self._undisturbed:
            quiet = self._run("host" if kind == "host" else "", self._setting(UNDISTURBED_SECONDS))
            self._undisturbed[fleet] = rate(quiet.points)
        self.figures[f"{fleet}, undisturbed, examples/s"] = self._undisturbed[fleet]
        found = self._run(kind, self._setting(max(self._seconds, 2 * every), every))
        name = f"{kind}_{every:g}s"
        self.figures[f"{name}, examples/s"] = rate(found.points)
        self.figures[f"{name}, faults"] = len(found.faults)
        self.ratios[f"goodput_{name}"] = rate(found.points) / self._undisturbed[fleet]
        if kind == "half":
            apart = over_fair_share(found, self._undisturbed[fleet])
            self.ratios["half_lost_vs_fair_share"] = max(apart, self.ratios.get("half_lost_vs_fair_share", 0.0))

    def _measure_ddp(self, every: float) -> None:
        if "ddp" not in self._undisturbed:
            points, _ = self._ddp(self._setting(UNDISTURBED_SECONDS)).run()
            self._undisturbed["ddp"] = rate(points)
        points, faults = self._ddp(self._setting(max(self._seconds, 2 * every), every)).run("worker")
        self.figures["DDP, undisturbed, examples/s"] = self._undisturbed["ddp"]
        self.figures[f"DDP, {every:g} s, examples/s"] = rate(points)
        self.figures[f"DDP, {every:g} s, faults"] = len(faults)
        self.ratios[f"ddp_restarts_{every:g}s"] = rate(points) / self._undisturbed["ddp"]

    def _setting(self, seconds: float, every: float | None = None) -> Setting:
        steps = round(seconds / STEP_SECONDS)
        return Setting(STEP_SECONDS * WORKERS / BATCH, steps, every)

    def _ddp(self, setting: Setting) -> Ddp:
        return Ddp(self._place(), setting, self._folder / "data.npz", self._save_every)

    def _run(self, kind: str, setting: Setting) -> Run:
        """One run of ours, compared with the undisturbed one of as many steps."""
        if setting.steps not in self._references:
            self._references[setting.steps] = reference(self._place(), self._data, setting.steps)
        expected = self._references[setting.steps]
        with two_hosts() if kind == "host" else contextlib.nullcontext() as hosts:
            ours = Ours(self._place(), setting, hosts)
            ours.write(self._data, self._save_every)
            found = ours.run(kind)
        assert found.sha256 == expected.sha256, f"{kind}: other parameters after {setting.steps} steps"
        assert found.losses == expected.losses, f"{kind}: other losses"
        return found

    def _place(self) -> Path:
        return self._folder / f"run{len(list(self._folder.glob('run*')))}"


def over_fair_share(run: Run, undisturbed: float) -> float:
    """What half of the workers would have made while others were missing, over what was made."""
    steps, times = np.array(run.points).T
    fair = made = 0.0
    for fault in run.faults:
        after = [(when, count) for when, count in run.workers if when > fault]
        fewer = next((when for when, count in after if count < WORKERS), times[-1])
        until = next((when for when, count in after if when > fewer and count == WORKERS), times[-1])
        fair += undisturbed / 2 * (until - fault)
        made += BATCH * float(np.interp(until, times, steps) - np.interp(fault, times, steps))
    return float(fair / made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--every", nargs="+", type=float, default=[30.0], help="seconds from a fault to the next")
    parser.add_argument("--seconds", type=float, default=60.0, help="that an undisturbed run takes")
    parser.add_argument("--save-every", type=float, default=5.0, help="seconds from a checkpoint to the next")
    given = parser.parse_args()
    if "host" in given.kinds and missing():
        parser.error(f"hosts are network namespaces, and need {missing()}: leave host out of --kinds")
    with tempfile.TemporaryDirectory(prefix="streamtrain-goodput-") as folder:
        goodput = Goodput(Path(folder), given.seconds, given.save_every)
        for every in given.every:
            for kind in given.kinds:
                goodput.measure(kind, every)
                print(f"{kind}, every {every:g} s: {goodput.ratios}", file=sys.stderr, flush=True)
    report("goodput: four workers, minibatch 128", goodput.figures, goodput.ratios, as_json=given.json)


if __name__ == "__main__":
    main()
