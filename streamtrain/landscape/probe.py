"""One probe of a run: all quantities, in numbers, in words and as a figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from streamtrain.errors import ConfigError, complaint
from streamtrain.gradient import build_model
from streamtrain.job import Job
from streamtrain.landscape.curvature import Curvature, Point, curvature, kind_of_point
from streamtrain.landscape.lanczos import Extremes, extremes
from streamtrain.landscape.recurrent import ThroughTime, through_time
from streamtrain.landscape.surface import Surface
from streamtrain.prepare.plan import plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINE_POINTS = 25


@dataclass(frozen=True)
class Probe:
    """What was found around one vector of parameters.

    Attributes:
        examples: training examples that the loss is the mean over.
        gradient_norm: there.
        curvature: along the gradient. spectrum: ends of the Hessian's. point: what kind of point it is.
        along_gradient: (step, loss) along −g. from_start: (part of the way, loss) from the initial parameters to these.
        through_time: of recurrent models.
    """

    examples: int
    gradient_norm: float
    curvature: Curvature
    spectrum: Extremes
    point: Point
    along_gradient: tuple[tuple[float, float], ...]
    from_start: tuple[tuple[float, float], ...]
    through_time: ThroughTime | None

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @property
    def words(self) -> str:
        """In plain English, a line a quantity."""
        at, ends = self.curvature, self.spectrum
        best = "none: the loss bends down" if at.best_step is None else f"{at.best_step:.4g}"
        most = "without end, as far as was looked" if at.largest_step is None else f"up to {at.largest_step:.4g}"
        highest = max(self.from_start, key=lambda point: point[1])
        hill = highest[0] not in (0.0, 1.0)
        lines = [
            f"loss {at.loss:.6g} on {self.examples:,} training examples; gradient norm {self.gradient_norm:.4g}",
            f"gTg = {at.squared_gradient:.4g}, gTHg = {at.gradient_curvature:.4g}; best step on the quadratic: {best}",
            f"a step of {at.learning_rate:g} along -g: predicted change {at.predicted:+.4g}, "
            f"measured {at.measured:+.4g}",
            f"steps along -g lower the loss {most}",
            f"Hessian from {ends.smallest:.4g} ± {ends.smallest_residual:.1g} "
            f"to {ends.largest:.4g} ± {ends.largest_residual:.1g}: {self.point} (gradient <= 1e-3 counts as zero, "
            "eigenvalues <= 1e-3 of the larger end too)",
            "from the start to here the loss "
            + (f"passes a hill of {highest[1]:.4g} at {highest[0]:.0%} of the way" if hill else "meets no hill"),
        ]
        if self.through_time is not None:
            time = self.through_time
            lines.append(
                f"through time the gradient changes by a factor of {time.growth:.3g} a step back; "
                f"spectral radius of the recurrent matrix {time.spectral_radius:.3g}"
            )
        return "\n".join(lines)

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


def probe(job: Job, run: Path, *, examples: int = 2000, iterations: int = 40) -> Probe:
    """Probes the parameters of a run's folder, or of one ``.safetensors`` file.

    Args:
        job: with which they were trained.
        examples: of the training split.
        iterations: products with the Hessian, at most.

    Raises:
        ConfigError: no such parameters, or they are not the job's. DataError: the data set is damaged.
    """
    surface = Surface(plan(job), _parameters(run), examples)
    here = surface.here
    gradient = surface.gradient(here)
    found = curvature(surface.loss, here, gradient, surface.hessian_times(here, gradient), job.sgd.lr)
    spectrum = extremes(lambda vector: surface.hessian_times(here, vector), len(here), iterations=iterations)
    end = 1.25 * (found.largest_step or 4 * job.sgd.lr)
    steps = [end * index / LINE_POINTS for index in range(LINE_POINTS + 1)]
    start = _start(job)
    parts = [index / LINE_POINTS for index in range(LINE_POINTS + 1)]
    along = tuple((step, surface.loss(here - step * gradient)) for step in steps)
    way = tuple((part, surface.loss(start + part * (here - start))) for part in parts)
    surface.loss(here)  # leaves the model where it was
    batch = next(surface.batches())
    time = through_time(surface.model, lambda: surface.losses(batch).mean())
    norm = float(gradient.norm())
    return Probe(surface.examples, norm, found, spectrum, kind_of_point(norm, spectrum), along, way, time)


def _start(job: Job) -> torch.Tensor:
    model = build_model(dataclasses.replace(job, device="cpu"))
    return torch.cat([p.detach().double().flatten() for p in model.parameters() if p.requires_grad])


def _parameters(run: Path) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = run / "parameters.safetensors" if run.is_dir() else run
    try:
        loaded: dict[str, torch.Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        found = " ".join(str(error).split())
        do = "name a finished run's folder or a .safetensors file"
        raise ConfigError(complaint(str(file), expected="saved parameters", found=found, do=do)) from None
    return loaded
