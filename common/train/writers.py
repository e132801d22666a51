"""Where metrics go: metrics.jsonl, which is the record, and TensorBoard event files made from it.

Each line of metrics.jsonl is an object with 'step', 'split' ('train', 'validation' or the name of
a final score), the metrics, and 'timing'. Everything outside 'timing' is the same, bit for bit, in
every run of the same config on the same machine, however often it was stopped and resumed.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar

from common.train.workdir import Workdir, replace_file, writing

Record = dict[str, Any]


class Unwritten:
    """The records of a run in a process that does not write them.

    Attributes:
        records: those of earlier sessions, and what this one would write.
    """

    def __init__(self, workdir: Workdir, step: int):
        self.records = [r for r in read_records(workdir.metrics) if _is_before(r, step)]

    def write(self, record: Record) -> None:
        """Keeps one record.

        Raises:
            ValueError: A value is not finite.
        """
        _to_line(record)
        self.records.append(record)

    def find(self, step: int, split: str) -> Record | None:
        """Returns the record of `split` at `step`, or None."""
        for record in reversed(self.records):
            if record["step"] == step and record["split"] == split:
                return record
        return None

    def elapsed_seconds(self) -> float:
        """Returns the time that earlier sessions took, up to the last record."""
        return self.records[-1]["timing"]["elapsed_seconds"] if self.records else 0.0

    def close(self) -> None:
        """Does nothing."""


class MetricsWriter(Unwritten):
    """Appends records to metrics.jsonl and shows them in TensorBoard.

    On opening, the file is cut back to what a run resumed after `step` has already done, so that
    each step stands there once and no torn line remains. The event files are then made anew from
    it, since a kill may have cost some of their events and others would come twice.
    """

    def __init__(self, workdir: Workdir, step: int):
        super().__init__(workdir, step)
        replace_file(workdir.metrics, "".join(map(_to_line, self.records)))
        self._path, self._folder = workdir.metrics, workdir.tensorboard
        with writing(self._path):
            self._file = self._path.open("a", encoding="utf-8")
        with writing(self._folder):
            self._folder.mkdir(exist_ok=True)
            for old in self._folder.glob("events.out.tfevents.*"):
                old.unlink()
            # Written in this thread: a thread of its own would hang once the disk is full.
            self._events = EventsWriter(str(self._folder / "events"))
            for record in self.records:
                self._add_events(record)
            self._events.flush()

    def write(self, record: Record) -> None:
        """Appends one record; it survives a kill of the process from here on.

        Raises:
            ValueError: A value is not finite.
            UserError: The disk is full, or gone.
        """
        line = _to_line(record)
        with writing(self._path):
            self._file.write(line)
            self._file.flush()
        self.records.append(record)
        with writing(self._folder):
            self._add_events(record)
            self._events.flush()

    def close(self) -> None:
        """Closes all files; what could not be written has been told of before."""
        for file in (self._file, self._events):
            with contextlib.suppress(OSError):
                file.close()

    def _add_events(self, record: Record) -> None:
        for tag, value in _scalars(record):
            self._events.write_event(
                Event(step=record["step"], wall_time=time.time(), summary=scalar(tag, value))
            )


def read_records(file: Path) -> list[Record]:
    """Reads metrics.jsonl up to the first line that is not whole; none if the file is missing."""
    records: list[Record] = []
    if not file.exists():
        return records
    for line in file.read_bytes().splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(record, dict):
            break
        records.append(record)
    return records


def _is_before(record: Record, step: int) -> bool:
    """Tells whether a run resumed after `step` keeps the record; final scores are made again."""
    return record["step"] <= step and record["split"] in ("train", "validation")


def _to_line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def _scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if name == "timing":
            yield from ((f"timing/{key}", x) for key, x in value.items() if x is not None)
        elif name not in ("step", "split"):
            yield f"{record['split']}/{name}", value
