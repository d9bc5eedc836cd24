"""The command line: parse, call, print. What is called lives elsewhere.

Exit codes: 0 done; 2 a wrong flag, setting or job file; 3 bad data; 4 a run that started and failed;
5 MLflow has not taken everything; 6 stopped by SIGTERM; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from streamtrain.errors import DataError, StreamtrainError, TrainingError

if TYPE_CHECKING:
    from streamtrain.job import Job
    from streamtrain.run.fleet.submitting import Cluster, Submitted
    from streamtrain.run.outcome.status import RunStatus

HELP = """\
usage: streamtrain COMMAND [--help]

  pack SOURCE DEST         raw data -> shuffled WebDataset shards and a manifest; --append adds to them
  inspect DEST             what a data set holds; its checksums; one example's way
  train JOB.py             train a job, with any setting as a flag
  probe RUN                the loss surface around a run's parameters, or a checkpoint's
  compare RUN RUN          two runs at equal numbers of updates
  submit JOB.py            train a job on a Ray cluster; logs and stop are for those that were submitted
  status [RUN]             how far runs are, here or on a cluster
  sync [RUN_FOLDER ...]    deliver to MLflow what it had not taken when runs ended
  ui                       open MLflow on this folder's runs

examples:
  streamtrain pack photos/ data/photos --splits 0.8 0.1 0.1 --seed 1
  streamtrain inspect data/photos --verify
  streamtrain train jobs/mnist.py --sgd.lr 0.05 --workers 2
  streamtrain ui --port 5000
"""

TRAIN_HELP = """\
usage: streamtrain train JOB.py [--mode online|epochs] [--any.setting VALUE ...] [--resume[=RUN]] [--json]

`streamtrain train JOB.py --help` lists every setting with the job's own values. --resume goes on with the newest
run of the job, or with the one whose folder is given, from its last good checkpoint.

examples:
  streamtrain train jobs/mnist.py
  streamtrain train jobs/mnist.py --mode online --workers 2 --sgd.lr 0.02
  streamtrain train jobs/mnist.py --resume
"""


PACK_EXAMPLES = """\
streamtrain pack photos/ data/photos --splits 0.8 0.1 0.1 --seed 1
streamtrain pack tables/ data/tables --tasks 8 --memory-bytes 8000000000      # over Ray
streamtrain pack newer.parquet data/tables --append --splits 1 0 0
"""
INSPECT_EXAMPLES = """\
streamtrain inspect data/mnist --verify
streamtrain inspect data/mnist --example 00042 --batch-size 64
streamtrain inspect data/mnist --audit                # is the order random, does held-out data leak into train
streamtrain inspect data/foreign --lint --json        # every place where readers of WebDataset shards differ
"""


PROBE_EXAMPLES = """\
streamtrain probe runs/mnist-epochs-20260102-101500
streamtrain probe runs/mnist-epochs-20260102-101500/checkpoints/000000004000.safetensors --log
streamtrain probe best.safetensors --job jobs/mnist.py
"""
STATUS_EXAMPLES = """\
streamtrain status                                     # what is running below runs/
streamtrain status runs/mnist-epochs-20260102-101500
streamtrain status --address http://HEAD:8265          # a cluster's jobs
streamtrain status raysubmit_1234
"""
SUBMIT_EXAMPLES = """\
streamtrain submit jobs/mnist.py --address http://HEAD:8265 --follow --workers 16
streamtrain status --address http://HEAD:8265
streamtrain logs raysubmit_1234 --follow
streamtrain stop raysubmit_1234
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(HELP, end="")
        sys.exit(0 if words else 2)
    if words[0] == "--version":
        import importlib.metadata

        print(importlib.metadata.version("streamtrain"))
        sys.exit(0)
    command = COMMANDS.get(words[0])
    if command is None:
        fail(f"streamtrain: expected one of {', '.join(COMMANDS)}, found {words[0]!r}; see streamtrain --help", 2)
    try:
        command(words[1:])
    except StreamtrainError as error:
        fail(f"streamtrain {words[0]}: {error}", error.exit_code)
    except KeyboardInterrupt:
        fail(f"streamtrain {words[0]}: interrupted; {INTERRUPTED.get(words[0], 'nothing was changed')}", 130)


def fail(line: str, code: int) -> NoReturn:
    """One line on standard error, without the secrets that a URL in it may hold, and out."""
    from streamtrain.store import masked

    print(masked(line), file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def interrupts_held() -> Iterator[None]:
    """Ctrl-C waits for the end of the block: a library that it meets in an import may catch it, and go on without."""
    before, came = signal.getsignal(signal.SIGINT), list[int]()
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


INTERRUPTED = {
    "pack": "no data set was written, and nothing half-written was left",
    "train": "a run that had begun says above where what it measured is",
    "compare": "nothing but the comparison's own folder was written",
    "sync": "what was delivered so far is noted, the rest stays",
}


def run_pack(words: Sequence[str]) -> None:
    """``streamtrain pack``."""
    with interrupts_held():
        from tqdm import tqdm

        from streamtrain.flags import PackArguments, parse
        from streamtrain.run.packing import append, pack

    given = parse(PackArguments, words, "streamtrain pack", PACK_EXAMPLES)
    bars: dict[str, tqdm[Any]] = {}

    def progress(phase: str, done: int, total: int | None) -> None:
        if phase not in bars:
            bars[phase] = tqdm(desc=phase, total=total, initial=done, unit=" examples", unit_scale=True, disable=None)
        bars[phase].update(done - bars[phase].n)
        if done == total:
            bars[phase].close()

    make = append if given.append else pack
    manifest = make(given.source, given.dest, given.options, progress)
    counts = {name: split.examples for name, split in manifest.splits.items()}
    shards = sum(len(split.shards) for split in manifest.splits.values())
    size = sum(shard.bytes for split in manifest.splits.values() for shard in split.shards)
    if given.json:
        print(json.dumps({"dest": str(given.dest), "examples": counts, "shards": shards, "bytes": size}))
    else:
        parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        print(f"{given.dest}: {manifest.examples:,} examples ({parts}) in {shards} shards, {size / 1e6:,.1f} MB")


def run_inspect(words: Sequence[str]) -> None:
    """``streamtrain inspect``."""
    from streamtrain.flags import InspectArguments, parse
    from streamtrain.prepare.inspect import inspect_dataset, report

    given = parse(InspectArguments, words, "streamtrain inspect", INSPECT_EXAMPLES)
    if given.lint:
        run_lint(given.dest, as_json=given.json)
        return
    found = inspect_dataset(
        given.dest,
        verify_all=given.verify,
        key=given.example,
        lanes=given.lanes,
        batch_size=given.batch_size,
        audited=given.audit_examples if given.audit else 0,
    )
    print(json.dumps(found, indent=1) if given.json else report(found))
    if given.audit and not found["audit"]["passed"]:
        sys.exit(DataError.exit_code)


def run_lint(place: str, *, as_json: bool) -> None:
    """``streamtrain inspect --lint``."""
    from streamtrain.prepare.linted import as_text, linted

    found = linted(place)
    print(json.dumps(found, indent=1) if as_json else as_text(found))
    if found["refused"]:
        sys.exit(DataError.exit_code)


def run_train(words: Sequence[str]) -> None:
    """``streamtrain train``."""
    if not words or words[0] in ("-h", "--help"):
        print(TRAIN_HELP, end="")
        sys.exit(0 if words else 2)
    file, *flags = words
    as_json = "--json" in flags
    resume, flags = _resume(flag for flag in flags if flag != "--json")
    job = _declared(file, flags)
    from streamtrain.run.outcome.report import table
    from streamtrain.run.train import train

    out = sys.stdout
    if as_json:  # for a script: what workers print comes through Ray on standard output, until the process ends
        sys.stdout = sys.stderr
    result = train(job, name=Path(file).stem, resume=resume)
    print(json.dumps(result.summary()) if as_json else table({result.mode: result}), file=out, flush=True)


def _declared(file: str, flags: list[str]) -> Job:
    """The job of a file, with what flags of `streamtrain train` set."""
    from streamtrain.flags import parse, with_mode
    from streamtrain.job import Job
    from streamtrain.prepare.jobfile import load_job

    job, flags = with_mode(load_job(file), flags)
    said = (
        "--sgd.lr 0.05 --workers 2",
        "--mode online --json",
        "--resume    # the newest run, from its last checkpoint",
    )
    example = "\n".join(f"streamtrain train {file} {flags}" for flags in said)
    return parse(Job, flags, f"streamtrain train {file}", example, default=job)


def _resume(flags: Iterable[str]) -> tuple[bool | str, list[str]]:
    """What --resume or --resume=FOLDER says, and the other flags."""
    resume: bool | str = False
    others = []
    for flag in flags:
        if flag == "--resume" or flag.startswith("--resume="):
            resume = flag.partition("=")[2] or True
        else:
            others.append(flag)
    return resume, others


def run_probe(words: Sequence[str]) -> None:
    """``streamtrain probe``."""
    from streamtrain.flags import ProbeArguments, parse

    given = parse(ProbeArguments, words, "streamtrain probe", PROBE_EXAMPLES)
    from streamtrain.run.checkpoints.resuming import alone_in
    from streamtrain.run.outcome.probing import command_of, folder_of, journal_probe, probe
    from streamtrain.track.figures import save
    from streamtrain.track.mlflow.sync import raise_for, sync

    folder = folder_of(given.run)
    file, flags = (str(given.job), []) if given.job is not None else command_of(folder)
    job = _declared(file, _resume(flag for flag in flags if flag != "--json")[1])
    found = probe(job, given.run, examples=given.examples, iterations=given.iterations)
    print(json.dumps(found.summary()) if given.json else found.words)
    save(found.figure(), given.figure or folder / "probe.png")
    if given.log:
        with alone_in(folder, "--log"):
            journal_probe(found, folder)
        raise_for([sync(folder, None)])


def run_compare(words: Sequence[str]) -> None:
    """``streamtrain compare``."""
    from streamtrain.flags import CompareArguments, parse
    from streamtrain.run.checkpoints.resuming import new_folder
    from streamtrain.run.outcome.compare import compare, log_comparison
    from streamtrain.track.mlflow import default_uri

    example = "streamtrain compare runs/mnist-epochs-20260102-101500 runs/mnist-online-20260102-102000"
    given = parse(CompareArguments, words, "streamtrain compare", example)
    comparison = compare(given.first, given.second, uri=given.uri)
    print(json.dumps(comparison.summary()) if given.json else comparison.table)
    if given.log:
        left = log_comparison(comparison, new_folder("runs", "compare"), given.uri or default_uri(), given.experiment)
        if left:
            print(left, file=sys.stderr)


def run_sync(words: Sequence[str]) -> None:
    """``streamtrain sync``."""
    from streamtrain.flags import SyncArguments, parse
    from streamtrain.track.mlflow.sync import folders_with_journals, raise_for, sync

    given = parse(SyncArguments, words, "streamtrain sync", "streamtrain sync\nstreamtrain sync runs/mnist-online-*")
    done = []
    for folder in folders_with_journals(given.folders):
        done.append(sync(folder, given.uri))
        if not given.json:
            print(done[-1].line, flush=True)
    if given.json:
        print(json.dumps([synced.summary() for synced in done]))
    elif not done:
        print("no journal below runs/: nothing to deliver")
    raise_for(done)


def run_submit(words: Sequence[str]) -> None:
    """``streamtrain submit``."""
    from streamtrain.flags import SubmitArguments, own_flags, parse, with_mode
    from streamtrain.job import Job
    from streamtrain.prepare.jobfile import load_job
    from streamtrain.run.fleet.submitting import Cluster

    own, flags = own_flags(words[1:], ("-h", "--help", "--address=", "--follow", "--installed"))
    given = parse(SubmitArguments, [*words[:1], *own], "streamtrain submit", SUBMIT_EXAMPLES)
    _, settings = _resume(flag for flag in flags if flag != "--json")
    job, settings = with_mode(load_job(given.job), settings)
    parse(Job, settings, "streamtrain submit", SUBMIT_EXAMPLES, default=job)  # a wrong setting is said here, not there
    cluster = Cluster(given.address)
    submission = cluster.submit(given.job, flags, ship_package=not given.installed)
    print(submission, flush=True)
    if given.follow:
        _follow(cluster, submission)


def run_status(words: Sequence[str]) -> None:
    """``streamtrain status``."""
    from streamtrain.flags import ADDRESS, StatusArguments, parse

    given = parse(StatusArguments, words, "streamtrain status", STATUS_EXAMPLES)
    found: Sequence[RunStatus | Submitted]
    if given.address is None and (given.run is None or Path(given.run).is_dir()):
        from streamtrain.run.outcome.status import running, status_of

        found = running(Path("runs")) if given.run is None else [status_of(Path(given.run))]
    else:
        from streamtrain.run.fleet.submitting import Cluster

        cluster = Cluster(given.address or ADDRESS)
        found = cluster.jobs() if given.run is None else [cluster.status(given.run)]
    if given.json:
        print(json.dumps([each.summary() for each in found]))
    else:
        print("\n".join(map(str, found)) or "nothing below runs/ is running")


def run_logs(words: Sequence[str]) -> None:
    """``streamtrain logs``."""
    from streamtrain.flags import LogsArguments, parse
    from streamtrain.run.fleet.submitting import Cluster

    given = parse(LogsArguments, words, "streamtrain logs", SUBMIT_EXAMPLES)
    cluster = Cluster(given.address)
    if given.follow:
        _follow(cluster, given.submission)
    print(cluster.logs(given.submission), end="")


def run_stop(words: Sequence[str]) -> None:
    """``streamtrain stop``."""
    from streamtrain.flags import StopArguments, parse
    from streamtrain.run.fleet.submitting import Cluster

    given = parse(StopArguments, words, "streamtrain stop", SUBMIT_EXAMPLES)
    stopped = Cluster(given.address).stop(given.submission)
    print(f"{given.submission}: {'asked to stop' if stopped else 'had ended'}")


def _follow(cluster: Cluster, submission: str) -> NoReturn:
    ended = cluster.follow(submission, lambda lines: print(lines, end="", flush=True))
    print(f"{submission}: {ended.state}; {ended.message}", file=sys.stderr)
    code = TrainingError.exit_code if ended.exit_code is None else ended.exit_code
    sys.exit(0 if ended.state == "SUCCEEDED" else code or TrainingError.exit_code)


def run_ui(words: Sequence[str]) -> None:
    """``streamtrain ui``."""
    from streamtrain.flags import UiArguments, parse
    from streamtrain.track.ui import serve

    given = parse(UiArguments, words, "streamtrain ui", "streamtrain ui --port 5000")
    sys.exit(serve(given.port))


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "pack": run_pack,
    "inspect": run_inspect,
    "train": run_train,
    "probe": run_probe,
    "compare": run_compare,
    "submit": run_submit,
    "status": run_status,
    "logs": run_logs,
    "stop": run_stop,
    "sync": run_sync,
    "ui": run_ui,
}
