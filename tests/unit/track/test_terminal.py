"""The live line on a terminal, and plain lines where there is none."""

import io
from typing import Any

import pytest

import streamtrain.track.terminal as terminal_module
from streamtrain.track.terminal import Notebook, Terminal


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_live_line_is_replaced_and_lines_stay() -> None:
    screen = Screen()
    terminal = Terminal(screen)
    terminal.live("pass 1/3", "step 10/875")
    terminal.live("pass 1/3", "step 20/875")
    terminal.line("pass 1 done")
    assert screen.getvalue() == ("\r\x1b[2Kpass 1/3 · step 10/875\r\x1b[2Kpass 1/3 · step 20/875\r\x1b[2Kpass 1 done\n")


def test_no_live_line_without_a_terminal_and_nothing_when_quiet() -> None:
    file, quiet = io.StringIO(), Screen()
    for terminal in (Terminal(file), Terminal(quiet, quiet=True)):
        terminal.live("pass 1/3")
        terminal.line("pass 1 done")
    assert file.getvalue() == "pass 1 done\n" and quiet.getvalue() == ""


def test_a_line_now_and_then_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now, file = [100.0], io.StringIO()
    monkeypatch.setattr(terminal_module.time, "monotonic", lambda: now[0])
    terminal = Terminal(file)
    for second in range(100, 160):
        now[0] = float(second)
        terminal.live("pass 1/3", f"step {second}/875")
    assert file.getvalue() == "pass 1/3 · step 110/875\npass 1/3 · step 140/875\n"


def test_a_notebook_has_a_bar_that_moves_and_lines_that_stay() -> None:
    shown: list[Any] = []

    class Handle:
        def update(self, bar: Any) -> None:
            shown.append(bar)

    def display(bar: Any, *, display_id: bool) -> Handle:
        shown.append(bar)
        return Handle()

    file = io.StringIO()
    terminal = Notebook(display, file)
    terminal.live("pass 1/2", "loss < 1", part=0.25)
    terminal.line("pass 1 done")
    terminal.live("pass 2/2", part=0.75)
    assert [bar._repr_html_() for bar in shown] == [
        '<progress value="0.2500"></progress> pass 1/2 · loss &lt; 1',
        '<progress value="0.7500"></progress> pass 2/2',
    ]
    assert repr(shown[0]) == "pass 1/2 · loss < 1" and file.getvalue() == "pass 1 done\n"
