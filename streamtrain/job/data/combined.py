"""Which settings of the data, the passes and the loss go together."""

from __future__ import annotations

from streamtrain.checks import require
from streamtrain.job.data.data import Data
from streamtrain.job.mode import Epochs, Online


def check_combined(data: Data, mode: Online | Epochs, loss_over: str) -> None:
    """Refuses what does not go with shares of every minibatch, or with minibatches of neighbours in length.

    Raises:
        ConfigError: naming the setting.
    """
    do = "pad with st.Pad: what the model gives for all lanes has to be of one form"
    require(loss_over != "minibatch" or data.pack is None, "loss_over", "examples beside st.Pack", loss_over, do)
    for beside in _of_the_order(data):
        do = f"leave it out, or {beside}"
        follows = isinstance(mode, Online) and mode.follow
        require(not follows, "mode.follow", f"off beside {beside}", True, do)
        if beside == "data.by_length":
            continue
        require(loss_over != "minibatch", "loss_over", f"examples beside {beside}", loss_over, do)
        of_shards = isinstance(mode, Epochs) and mode.reshuffle == "shards"
        require(not of_shards, "mode.reshuffle", f"stored or examples beside {beside}", "shards", do)
    if data.balance is not None and data.balance.weights is not None:
        do = "give st.Epochs(…), or balance classes"
        require(isinstance(mode, Epochs), "mode", "st.Epochs(…) beside data.balance by weights", mode, do)


def _of_the_order(data: Data) -> list[str]:
    """The settings that say which examples make a minibatch: one at most."""
    settings = {"data.balance": data.balance, "data.by_length": data.by_length, "st.Mixture": data.mixture}
    given = [name for name, value in settings.items() if value is not None]
    beside = " or ".join(given[1:])
    for name in given[:1]:
        require(not beside, name, f"none beside {beside}", settings[name], f"leave it out, or {beside}")
    return given
