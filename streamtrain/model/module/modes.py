"""The modes of a model's parts: each as its user left it while training, all of them in evaluation while measuring."""

from __future__ import annotations

import torch

from streamtrain.errors import users_code


class Modes:
    """Which parts of a model train: those that the user's function left in training mode.

    A part with a `train` of its own, which may keep some of its parts in evaluation, is asked too: what either leaves
    in evaluation stays so (a frozen BatchNorm keeps its statistics).

    Attributes:
        trains: whether the model as a whole is in training mode.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        given = {module: module.training for module in model.modules()}
        self._asks = any(_has_own_train(module) for module in given)
        if self._asks:
            self._call_train()
        self._training = {module: training and module.training for module, training in given.items()}
        self.trains = self._training[model]
        self._evaluates = False
        self._set()

    def train(self) -> None:
        """Brings every part back to the mode that it trains in; costs nothing where it is in it."""
        if self._evaluates:
            if self._asks:
                self._call_train()
            self._set()
            self._evaluates = False

    def evaluate(self) -> None:
        """Puts all parts into evaluation mode, as `torch.nn.Module.eval` does."""
        if not self._evaluates:
            with users_code("the model's eval()"):
                self._model.eval()
            self._evaluates = True

    def differing(self) -> list[str]:
        """Kinds of parts that compute otherwise in training than in evaluation, of PyTorch's own."""
        kinds = {type(module).__name__ for module, trains in self._training.items() if trains and _differs(module)}
        return sorted(kinds)

    def changed(self) -> str | None:
        """The name of a part that is in another mode than it was brought to; ``None`` where there is none."""
        for name, module in self._model.named_modules():
            if module in self._training and module.training != (self._training[module] and not self._evaluates):
                return str(name)
        return None

    def _call_train(self) -> None:
        with users_code("the model's train()"):
            self._model.train()

    def _set(self) -> None:
        for module, training in self._training.items():
            if module.training != training:
                module.training = training


def _has_own_train(module: torch.nn.Module) -> bool:
    return type(module).train is not torch.nn.Module.train or "train" in vars(module)


def _differs(module: torch.nn.Module) -> bool:
    """Whether training's forward is another than evaluation's."""
    if isinstance(module, torch.nn.modules.batchnorm._NormBase):
        return not isinstance(module, torch.nn.modules.instancenorm._InstanceNorm) or module.track_running_stats
    rate = getattr(module, "p", 0.0) if isinstance(module, torch.nn.modules.dropout._DropoutNd) else 0.0
    if isinstance(module, torch.nn.RNNBase | torch.nn.MultiheadAttention):
        rate = module.dropout
    return float(rate) > 0
