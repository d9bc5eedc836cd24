"""Checkpoints in a folder or a bucket: ``NUMBER.safetensors`` has tensors, ``NUMBER.json``, written last, all else.

The best parameters until the last of them are in each, and by themselves in ``best.safetensors``.

Each object is written whole or not at all; the JSON has its own checksum and that of the tensors. What was cut
short or altered is refused by name, and the one before it is taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamtrain.errors import DataError, one_line
from streamtrain.store import RetryPolicy
from streamtrain.store.remote import Store

if TYPE_CHECKING:
    import torch

VERSION = 7
BEST, MEASURED = "best", "measured"
MOST_JSON = 256 << 20
"""Bytes of a checkpoint's JSON, which holds no tensors; what is larger is not ours."""


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on.

    Attributes:
        tensors: ``parameters/NAME``, ``momentum/NAME``, … of the state, ``best/NAME`` of the parameters to be kept, and
            ``measured/NAME`` of those whose measurement is outstanding.
        progress: of the controller at this step, as `Progress.to_json` gives it.
        settings: what must be the same when the run goes on.
        run_id: MLflow's, where it was known.
    """

    tensors: Mapping[str, torch.Tensor]
    progress: Mapping[str, Any]
    settings: Mapping[str, str]
    run_id: str | None = None

    @property
    def step(self) -> int:
        """Updates in the state."""
        return int(self.progress["step"])

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The tensors that workers go on from."""
        return {name: t for name, t in self.tensors.items() if name.partition("/")[0] not in (BEST, MEASURED)}

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors under ``name/``."""
        return {key.removeprefix(name + "/"): t for key, t in self.tensors.items() if key.startswith(name + "/")}


class CheckpointFiles:
    """A run's checkpoints.

    Args:
        place: folder or URL of theirs.
        keep: how many of the last ones stay.
        warn: takes a line about what could not be written or read; the run goes on.
    """

    def __init__(self, place: str, keep: int, warn: Callable[[str], None]) -> None:
        self._store = Store(place, RetryPolicy(attempts=4))
        self._place = place
        self._keep = keep
        self._warn = warn
        self._trouble = ""

    def newest(self) -> Checkpoint | None:
        """The last good one."""
        found = (self.at(number) for number in reversed(self._numbers()))
        return next((each for each in found if each is not None), None)

    def at(self, number: str) -> Checkpoint | None:
        """The one whose files have this name, where it is good."""
        try:
            return self._read(number)
        except (DataError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            self._warn(f"checkpoint {self._place}/{number}.json is passed over: {one_line(error)}")
            return None

    def write(self, checkpoint: Checkpoint) -> bool:
        """Writes one, and removes those that are too old; false where it could not be written."""
        body = {
            "settings": dict(checkpoint.settings),
            "run_id": checkpoint.run_id,
            "progress": dict(checkpoint.progress),
        }
        return self._write(f"{checkpoint.step:012d}", checkpoint.tensors, body)

    def write_best(self, parameters: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> bool:
        """Writes a state dict as ``best.safetensors``, and what is known of it as ``best.json``; false as `write`."""
        return self._write(BEST, parameters, about)

    def _write(self, name: str, tensors: Mapping[str, torch.Tensor], body: Mapping[str, Any]) -> bool:
        from safetensors.torch import save

        try:
            data = save(dict(tensors))
            sums = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            body = {"version": VERSION, "tensors": sums, **body}
            self._store.write(f"{name}.safetensors", data)
            self._store.write(f"{name}.json", json.dumps({"sha256": _digest(body), **body}).encode())
            kept = {BEST, *self._numbers()[-self._keep :]}
            for each in self._store.names():  # older ones, and what a killed process was writing
                if each.partition(".")[0] not in kept:
                    self._store.remove(each)
        except (DataError, OSError) as error:
            if not self._trouble:  # once, however many follow
                found = one_line(error)
                self._warn(f"checkpoint {self._place}/{name} could not be written: {found}; the run goes on")
            self._trouble = name
            return False
        if self._trouble:
            self._warn(f"checkpoint {self._place}/{name} is written; {self._trouble} was the last that could not be")
            self._trouble = ""
        return True

    def _read(self, number: str) -> Checkpoint:
        from safetensors import SafetensorError
        from safetensors.torch import load

        if (size := self._store.size(f"{number}.json")) > MOST_JSON:
            raise ValueError(f"{size:,} bytes, expected at most {MOST_JSON:,}")
        body: dict[str, Any] = json.loads(self._store.read_whole(f"{number}.json"))
        if not isinstance(body, dict) or body.pop("sha256", None) != _digest(body):
            raise ValueError("its checksum is not that of its content")
        if body["version"] != VERSION:
            raise ValueError(f"version {body['version']}, expected {VERSION}")
        size = self._store.size(f"{number}.safetensors")
        expected = body["tensors"]["bytes"]
        if size != expected:
            raise ValueError(f"{number}.safetensors has {size:,} bytes, expected {expected:,}")
        data = self._store.read_whole(f"{number}.safetensors")
        if hashlib.sha256(data).hexdigest() != body["tensors"]["sha256"]:
            raise ValueError(f"{number}.safetensors is not the file that it was written with")
        try:
            tensors = load(data)
        except SafetensorError as error:
            raise ValueError(str(error)) from None
        return Checkpoint(tensors, body["progress"], body["settings"], body["run_id"])

    def _numbers(self) -> list[str]:
        names = (name.removesuffix(".json") for name in self._store.names() if name.endswith(".json"))
        return [name for name in names if name != BEST]


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
