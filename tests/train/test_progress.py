import io
import itertools

import pytest

from common.train import NoProgress, ProgressLine
from common.train import progress as progress_module


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def ticking(monkeypatch):
    """Lets every look at the clock take a second."""
    ticks = itertools.count(100.0)
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(ticks))


def run(stream, interval=None, steps=30):
    line = ProgressLine(stream, interval)
    line.begin(0, steps, 4)
    for step in range(1, steps + 1):
        line.update(step, {"loss": 0.5} if step == 10 else None)
    line.message("done")
    line.close()
    return stream.getvalue()


def test_plain_output_is_a_line_now_and_then(ticking):
    lines = run(io.StringIO()).splitlines()
    assert lines[:3] == [
        "compiling ...",
        "step 1/30  3%",
        "step 11/30  37%  1 steps/s  4 examples/s  ETA 0:19  loss 0.5",
    ]
    assert [line.split()[1] for line in lines[3:-1]] == ["21/30", "30/30"]
    assert lines[-1] == "done"


def test_a_terminal_has_one_line_that_is_rewritten(ticking):
    output = run(Terminal())
    assert [line.strip() for line in output.split("\n")[0].split("\r")] == ["", "compiling ..."]
    rewritten = output.split("\n")[1].split("\r")[1:]
    assert [line.split()[:2] for line in rewritten[:-1]] == [
        ["step", f"{step}/30"] for step in range(1, 31)
    ]
    assert rewritten[-1].strip() == "done"
    assert output.endswith("\n")


def test_a_shorter_line_covers_a_longer_one():
    terminal = Terminal()
    line = ProgressLine(terminal, interval=0.0)
    line.begin(0, 1000, 1)
    line.update(1, {"loss": 0.123456})
    line.update(2, {"loss": 1.0})
    first, second = terminal.getvalue().split("\r")[-2:]
    assert len(second) >= len(first)


def test_the_rest_is_judged_by_this_session_alone(ticking):
    stream = io.StringIO()
    line = ProgressLine(stream, interval=1.0)
    line.begin(100, 4000, 1)
    line.update(101)
    line.update(102)
    assert stream.getvalue().splitlines() == [
        "resuming after step 100, compiling ...",
        "step 101/4000  3%",
        "step 102/4000  3%  1 steps/s  1 examples/s  ETA 1:04:58",
    ]


def test_silence():
    quiet = NoProgress()
    quiet.begin(0, 1, 1)
    quiet.update(1)
    quiet.message("anything")
    quiet.close()
