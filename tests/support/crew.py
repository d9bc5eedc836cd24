"""Processes that wait for work: started once, since importing torch costs more than most tests."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

SECONDS = 120
"""Longest that one answer may take."""


class Crew:
    """``size`` processes; use it as a context."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["streamtrain.run.fleet.processes.worker", "tests.support.steps"])
        self._pipes: list[Connection[Any, Any]] = []
        self.processes = []
        for _ in range(size):
            mine, theirs = context.Pipe()
            process = context.Process(target=_wait_for_work, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(mine)
            self.processes.append(process)

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def start(self, worker: int, work: Callable[..., Any], *arguments: Any) -> None:
        """Has one process call ``work``; `result` gets the answer."""
        self._pipes[worker].send((work, arguments))

    def answered(self, worker: int, seconds: float = 0.05) -> bool:
        """Whether its answer is there, or comes within so long."""
        return self._pipes[worker].poll(seconds)

    def result(self, worker: int) -> Any:
        """What its work returned.

        Raises:
            RuntimeError: it failed, with its traceback.
        """
        assert self._pipes[worker].poll(SECONDS), f"process {worker} did not answer"
        failed, answer = self._pipes[worker].recv()
        if failed:
            raise RuntimeError(answer)
        return answer

    def all(self, work: Callable[..., Any], each: Sequence[Sequence[Any]]) -> list[Any]:
        """As many processes as ``each`` has argument lists, all at once."""
        for worker, arguments in enumerate(each):
            self.start(worker, work, *arguments)
        return [self.result(worker) for worker in range(len(each))]


def _wait_for_work(pipe: Connection[Any, Any]) -> None:
    import torch

    torch.set_num_threads(1)
    while True:
        try:
            work, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((False, work(*arguments)))
        except Exception:
            pipe.send((True, traceback.format_exc()))
