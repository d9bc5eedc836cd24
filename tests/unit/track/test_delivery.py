"""Delivery of a journal without any server: order, trouble, refusals, locks, and what a crash leaves."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from streamtrain.track import delivery
from streamtrain.track.delivery import Delivery, Refused, deliver_once
from streamtrain.track.journal import Backlog, Entry, Journal, entries_of


class Server:
    """Takes what is not refused; ``trouble`` more times it does not answer."""

    def __init__(self, refuses: Sequence[str] = (), trouble: int = 0) -> None:
        self.refuses, self.trouble = refuses, trouble
        self.taken: list[Entry] = []

    def take(self, entries: Sequence[Entry]) -> None:
        if self.trouble:
            self.trouble -= 1
            raise ConnectionError("busy")
        names = {reading[0] for entry in entries for reading in entry.get("readings", ())}
        if names & set(self.refuses) or any(entry["kind"] in self.refuses for entry in entries):
            raise Refused("never")
        self.taken += entries

    @property
    def readings(self) -> list[list[object]]:
        return [reading for entry in self.taken for reading in entry.get("readings", ())]


def journal_of(folder: Path, *batches: list[str]) -> Journal:
    journal = Journal(folder)
    journal.append("begin", key=journal.key)
    for number, names in enumerate(batches):
        journal.append("readings", readings=[[name, 1.5, number, 1.0] for name in names])
    return journal


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_PAUSE", 0.001)


def test_promise_8_trouble_is_tried_again_in_order_while_the_run_writes(tmp_path: Path) -> None:
    import threading

    journal = journal_of(tmp_path)
    server = Server(trouble=3)
    sent = Delivery(tmp_path, server)
    thread = threading.Thread(target=sent.follow)
    thread.start()
    for step in range(50):
        journal.append("readings", readings=[["loss", step / 7, step, 1.0]])
        sent.notice()
    journal.append("finish", status="finished")
    sent.close()
    assert sent.done.wait(60)
    thread.join()
    assert server.taken == list(entries_of(journal.file)) and sent.trouble == "ConnectionError: busy"
    assert (tmp_path / "delivered").read_text() == "52\n"


def test_a_refused_reading_is_set_aside_alone_and_holds_up_nothing(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, ["a", "bad", "c"], ["d"], ["e", "bad"])
    journal.append("artifact", file="risk.png")
    journal.append("finish", status="finished")
    server = Server(refuses=["bad", "artifact"])
    with Backlog(tmp_path, wait=False) as backlog:
        done = deliver_once(backlog, server)
    assert [reading[0] for reading in server.readings] == ["a", "c", "d", "e"]
    assert server.taken[-1]["kind"] == "finish"
    kinds = [(entry["kind"], entry.get("readings"), entry["because"]) for entry in done.refused]
    assert kinds == [
        ("readings", [["bad", 1.5, 0, 1.0]], "never"),
        ("readings", [["bad", 1.5, 2, 1.0]], "never"),
        ("artifact", None, "never"),
    ]
    server.refuses = ["artifact"]
    with Backlog(tmp_path, wait=False) as backlog:
        again = deliver_once(backlog, server)
        assert [entry["kind"] for entry in backlog.refused()] == ["artifact"] == [e["kind"] for e in again.refused]
    assert [reading[2] for reading in server.readings if reading[0] == "bad"] == [0, 2] and again.entries == 2


def test_a_server_that_stays_away_leaves_the_rest_where_it_is(tmp_path: Path) -> None:
    journal_of(tmp_path, ["a"], ["b"])
    with pytest.raises(ConnectionError), Backlog(tmp_path, wait=False) as backlog:
        deliver_once(backlog, Server(trouble=delivery.TRIES))
    server = Server()
    with Backlog(tmp_path, wait=False) as backlog:
        assert deliver_once(backlog, server).entries == 3
        assert deliver_once(backlog, server).entries == 0
    assert [reading[0] for reading in server.readings] == ["a", "b"]


def test_one_process_at_a_time_delivers_a_journal(tmp_path: Path) -> None:
    journal_of(tmp_path, ["a"])
    with Backlog(tmp_path, wait=False), pytest.raises(BlockingIOError):
        Backlog(tmp_path, wait=False).__enter__()
    with Backlog(tmp_path, wait=False) as backlog:
        assert len(backlog.read()) == 1


def test_a_batch_ends_before_what_is_no_reading_and_at_its_size(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, *[["a"] * 400] * 4)
    journal.append("finish", status="finished")
    with Backlog(tmp_path, wait=False) as backlog:
        sizes = [[entry["kind"] for entry in backlog.read()] for _ in range(5)]
    assert sizes == [["begin"], ["readings"] * 3, ["readings"], ["finish"], []]


def test_a_journal_whose_last_line_was_cut_goes_on_behind_the_last_whole_one(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, ["a"], ["b"])
    journal.close()
    journal.file.write_bytes(journal.file.read_bytes()[:-5])
    with Backlog(tmp_path, wait=False) as backlog:
        assert [len(backlog.read()) for _ in range(3)] == [1, 1, 0]
    resumed = Journal(tmp_path)
    assert resumed.resumed and resumed.key == journal.key and not journal.resumed
    resumed.append("finish", status="finished")
    assert [entry["kind"] for entry in entries_of(journal.file)] == ["begin", "readings", "finish"]
