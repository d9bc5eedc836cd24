"""The command line: find the command, call it, and say in one line why it could not go on.

Exit codes: 0 done; 2 a wrong flag, setting or job file; 3 bad data; 4 a run that started and failed;
5 MLflow has not taken everything; 6 stopped by SIGTERM; 130 interrupted.
"""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from streamtrain.cli.interrupts import interrupts_held
from streamtrain.cli.pipes import survive_closed_pipes
from streamtrain.errors import StreamtrainError, complaint, flat
from streamtrain.prepare.surroundings import check_process

Command = Callable[[Sequence[str]], None]

HELP = """\
usage: streamtrain COMMAND [--help]

  pack SOURCE DEST         raw data -> shuffled WebDataset shards and a manifest; --append adds to them
  inspect DEST             what a data set holds; its checksums; one example's way
  train JOB.py             train a job, with any setting as a flag
  probe RUN                the loss surface around a run's parameters, or a checkpoint's; or its batch size
  evaluate RUN DATA        risks of a run's model on a data set, with standard errors
  predict RUN DATA OUT     its outputs and each example's loss, as a Parquet file
  compare RUN RUN          two runs, or two groups of them, at equal numbers of updates
  submit JOB.py            train a job on a Ray cluster; logs and stop are for those that were submitted
  status [RUN]             how far runs are, here or on a cluster
  sync [RUN_FOLDER ...]    deliver to MLflow what it had not taken when runs ended
  ui                       open MLflow on this folder's runs

examples:
  streamtrain pack photos/ data/photos --splits 0.8 0.1 0.1 --seed 1
  streamtrain inspect data/photos --verify
  streamtrain train jobs/mnist.py --optimizer.lr 0.05 --workers 2
  streamtrain ui --port 5000
"""

INTERRUPTED = {
    "pack": "no data set was written, and nothing half-written was left",
    "train": "a run that had begun says above where what it measured is",
    "predict": "no file was written",
    "compare": "nothing but the comparison's own folder was written",
    "sync": "what was delivered so far is noted, the rest stays",
}

UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)
"""What the system answers about a path that somebody has named wrongly, or may not use."""
USABLE = "a path that this user can use"

COMMANDS = (
    *("pack", "inspect", "train", "probe", "evaluate", "predict", "compare"),
    *("submit", "status", "logs", "stop", "sync", "ui"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its code."""
    survive_closed_pipes()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(HELP, end="")
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        import importlib.metadata

        print(importlib.metadata.version("streamtrain"))
        sys.exit(0)
    if words[0] not in COMMANDS:
        fail(f"streamtrain: expected one of {', '.join(COMMANDS)}, found {words[0]!r}; see streamtrain --help", 2)
    try:
        with interrupts_held():
            check_process()
            command = command_named(words[0])
        command(words[1:])
    except StreamtrainError as error:
        fail(f"streamtrain {words[0]}: {error}", error.exit_code)
    except OSError as error:
        if error.errno not in UNUSABLE or error.filename is None:
            raise
        found, do = flat(error.strerror or str(error)), "check the path and its rights"
        fail(f"streamtrain {words[0]}: {complaint(str(error.filename), expected=USABLE, found=found, do=do)}", 2)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends the process at once, without a traceback
        fail(f"streamtrain {words[0]}: interrupted; {INTERRUPTED.get(words[0], 'nothing was changed')}", 130)


def command_named(name: str) -> Command:
    """One of `COMMANDS`; imported only now, so that ``--help`` waits for nothing."""
    if name in ("pack", "inspect"):
        from streamtrain.cli import dataset_commands

        return {"pack": dataset_commands.run_pack, "inspect": dataset_commands.run_inspect}[name]
    if name in ("train", "probe", "compare"):
        from streamtrain.cli import run_commands

        commands = {"train": run_commands.run_train, "probe": run_commands.run_probe}
        return commands.get(name, run_commands.run_compare)
    if name in ("evaluate", "predict"):
        from streamtrain.cli import model_commands

        return model_commands.run_evaluate if name == "evaluate" else model_commands.run_predict
    if name in ("sync", "ui"):
        from streamtrain.cli import mlflow_commands

        return mlflow_commands.run_sync if name == "sync" else mlflow_commands.run_ui
    from streamtrain.cli import cluster_commands

    return {
        "submit": cluster_commands.run_submit,
        "status": cluster_commands.run_status,
        "logs": cluster_commands.run_logs,
        "stop": cluster_commands.run_stop,
    }[name]


def fail(line: str, code: int) -> NoReturn:
    """One line on standard error, without the secrets that a URL in it may hold, and out."""
    from streamtrain.store import masked

    print(masked(line), file=sys.stderr)
    sys.exit(code)
