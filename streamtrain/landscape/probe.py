"""One probe of a run: all quantities, in numbers, in words and as a figure."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from streamtrain.aggregate.descent.rules import Descent
from streamtrain.aggregate.descent.schedule import base_rate
from streamtrain.landscape.curvature import Curvature, Point, curvature, kind_of_point
from streamtrain.landscape.gradients import directions_at
from streamtrain.landscape.lanczos import LEVEL, Extremes, extremes
from streamtrain.landscape.recurrent import ThroughTime, through_time
from streamtrain.landscape.surface import Surface
from streamtrain.measure.diagnostics.directions import Directions
from streamtrain.measure.diagnostics.directions.way_to_end import WayToEnd
from streamtrain.model.gradient import build_model
from streamtrain.prepare.plan import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE_POINTS = 25


@dataclass(frozen=True)
class Probe:
    """What was found around one vector of parameters.

    Attributes:
        step: updates in them, where it is known.
        examples: training examples that the loss is the mean over.
        gradient_norm: there.
        curvature: along the gradient. spectrum: ends of the Hessian's. point: what kind of point it is.
        along_gradient: (step, loss) along −g. from_start: (part of the way, loss) from the initial parameters to these.
        directions: of the gradients of the minibatches that come next; ``None`` where there are too few.
        through_time: of recurrent models.
        seconds: that the probe took.
    """

    step: int | None
    examples: int
    gradient_norm: float
    curvature: Curvature
    spectrum: Extremes
    point: Point
    along_gradient: tuple[tuple[float, float], ...]
    from_start: tuple[tuple[float, float], ...]
    through_time: ThroughTime | None
    seconds: float
    directions: Directions | None = None

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @property
    def short(self) -> str:
        """The most of it in one line."""
        at = self.curvature
        ends = self.spectrum
        most = "without end" if at.largest_step is None else f"up to {at.largest_step:.3g}"
        return (
            f"after {self.step or 0:,} updates, {self.seconds:.1f} s: {self.point}, gTg {at.squared_gradient:.3g}, "
            f"gTHg {at.gradient_curvature:.3g}, Hessian {ends.smallest:.3g} to {ends.largest:.3g}, "
            f"steps along -g lower the loss {most}"
        )

    @property
    def words(self) -> str:
        """In plain English, a line a quantity."""
        at = self.curvature
        ends = self.spectrum
        best = "none: the loss bends down" if at.best_step is None else f"{at.best_step:.4g}"
        most = "without end, as far as was looked" if at.largest_step is None else f"up to {at.largest_step:.4g}"
        highest = max(self.from_start, key=lambda point: point[1])
        hill = highest[0] not in (0.0, 1.0)
        lines = [
            ("" if self.step is None else f"after {self.step:,} updates: ")
            + f"loss {at.loss:.6g} on {self.examples:,} training examples; gradient norm {self.gradient_norm:.4g}",
            f"gTg = {at.squared_gradient:.4g}, gTHg = {at.gradient_curvature:.4g}; best step on the quadratic: {best}",
            f"a step of {at.learning_rate:g} along -g: predicted change {at.predicted:+.4g}, "
            f"measured {at.measured:+.4g}",
            f"steps along -g lower the loss {most}",
            f"Hessian from {ends.smallest:.4g} ± {ends.smallest_residual:.1g} "
            f"to {ends.largest:.4g} ± {ends.largest_residual:.1g}: {self.point} ({self._reason})",
            "from the start to here the loss "
            + (f"passes a hill of {highest[1]:.4g} at {highest[0]:.0%} of the way" if hill else "meets no hill"),
        ]
        lines += [] if self.directions is None else [_directions_in_words(self.directions)]
        if self.through_time is not None:
            through = self.through_time
            lines.append(
                f"through time the gradient changes by a factor of {through.growth:.3g} a step back; "
                f"spectral radius of the recurrent matrix {through.spectral_radius:.3g}"
            )
        return "\n".join(lines)

    @property
    def _reason(self) -> str:
        """Why the point is called what it is."""
        level = LEVEL * max(abs(self.spectrum.smallest), abs(self.spectrum.largest))
        reasons = {
            "slope": "the gradient is more than 1e-3 of how much the loss has changed since the start",
            "minimum": f"no eigenvalue below {-level:.2g} was found",
            "maximum": f"no eigenvalue above {level:.2g} was found",
            "saddle": "eigenvalues of both signs",
            "plateau": "no eigenvalue above 1e-3 of how much the loss has changed since the start",
            "undecided": f"an end of the spectrum is not known to {level / 3:.1g}: raise --iterations",
        }
        return reasons[self.point]

    def figure(self) -> Figure:
        """Loss along both lines, and the gradient through time where there is one."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        panels = 2 if self.through_time is None else 3
        figure = Figure(figsize=(4.5 * panels, 4), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, panels)
        axes[0].plot(*zip(*self.along_gradient, strict=True), marker="o", markersize=3)
        axes[0].set(xlabel="step along −g", ylabel="loss", title="along the gradient")
        axes[0].axvline(self.curvature.learning_rate, color="black", linewidth=0.8, linestyle=":")
        axes[1].plot(*zip(*self.from_start, strict=True), marker="o", markersize=3)
        axes[1].set(xlabel="part of the way", ylabel="loss", title="from the start to here")
        if self.through_time is not None:
            axes[2].semilogy(self.through_time.norms)
            axes[2].set(xlabel="steps before the end", ylabel="gradient norm", title="through time")
        for each in axes:
            each.grid(alpha=0.3)
        return figure


class Prober:
    """Probes one vector of parameters of a run after the other, on the same examples.

    A probe of n examples costs at most ``3 + 2 · iterations`` gradients and about 200 losses of all of them.

    Args:
        plan: of the run.
        examples: of the training split, at most.
        iterations: products with the Hessian, at most.

    Raises:
        DataError: the data set is damaged.

    Attributes:
        way: of all its probes.
    """

    def __init__(self, plan: Plan, *, examples: int, iterations: int) -> None:
        self._plan = plan
        self._iterations = iterations
        self.way = WayToEnd()
        self._surface = Surface(plan, examples)
        self._start = self._surface.stand(build_model(dataclasses.replace(plan.job, device="cpu")).state_dict())

    def probe(self, tensors: Mapping[str, torch.Tensor], step: int | None) -> Probe:
        """Around a state dict's parameters, after ``step`` updates; without it the schedule is left out of the rate.

        Raises:
            ConfigError: they are not of the job's model.
        """
        began = time.monotonic()
        surface = self._surface
        rate = self._rate(step)
        here = surface.stand(tensors)
        gradient = surface.gradient(here)
        found = curvature(surface.loss, here, gradient, surface.hessian_times(here, gradient), rate)
        spectrum = extremes(
            lambda vector: surface.hessian_times(here, vector),
            len(here),
            iterations=self._iterations,
            tolerance=LEVEL / 3,
        )
        end = 1.25 * (found.largest_step or 4 * rate)
        steps = [end * index / LINE_POINTS for index in range(LINE_POINTS + 1)]
        parts = [index / LINE_POINTS for index in range(LINE_POINTS + 1)]
        along = tuple((each, surface.loss(here - each * gradient)) for each in steps)
        way = tuple((part, surface.loss(self._start + part * (here - self._start))) for part in parts)
        surface.loss(here)  # leaves the model where it was
        batch = next(surface.batches())
        through = through_time(surface.model, lambda: surface.mean_loss(batch))
        norm = float(gradient.norm())
        losses = [loss for _, loss in way]
        point = kind_of_point(norm, spectrum, scale=(max(losses) - min(losses)) or abs(found.loss))
        pointing = None if step is None else directions_at(surface, self._plan, here, step)
        self.way.add(step or 0, gradient.numpy(), here.numpy())
        seconds = time.monotonic() - began
        return Probe(step, surface.examples, norm, found, spectrum, point, along, way, through, seconds, pointing)

    def cosines_to(self, tensors: Mapping[str, torch.Tensor]) -> dict[int, float]:
        """Of −g at every probe so far with the way from there to a state dict's parameters, by step."""
        return self.way.cosines(self._surface.stand(tensors).numpy())

    def _rate(self, step: int | None) -> float:
        """Of the update that comes next."""
        job = self._plan.job
        optimizer = Descent.of(job).optimizer.fitted(self._surface.layout)
        if step is None:
            return base_rate(optimizer, job.first_batch_size)
        return self._plan.rate_of(optimizer, step)


def _directions_in_words(found: Directions) -> str:
    """A line."""
    known = math.isfinite(found.alignment)
    cosine = f"{found.alignment:.2f} ± {found.alignment_error:.2f}" if known else "not known"
    clipped = "" if found.clip_kept is None else f"; clipping keeps {found.clip_kept:.2f} of the expected gradient"
    return (
        f"the minibatches that come next and the held-out gradient: cosine {cosine}; errors of two subsequent "
        f"estimates correlate by {found.correlation:.2f} ± {found.correlation_error:.2f}; "
        f"their spread has {found.effective_dimension:.3g} effective dimensions{clipped}"
    )
