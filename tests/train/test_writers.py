import json
import struct

import pytest
from tensorboardX.proto import event_pb2

from common.train import MetricsWriter, Workdir, read_records


def record(step, split="train", **values):
    return {
        "step": step,
        "split": split,
        "loss": 1 / step,
        **values,
        "timing": {"elapsed_seconds": 2.5 * step},
    }


def read_events(folder):
    """Reads step, tag and value of all scalars in all event files: length, crc, data, crc."""
    found = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return found


@pytest.fixture
def workdir(tmp_path):
    return Workdir(tmp_path)


def write(workdir, step, records):
    writer = MetricsWriter(workdir, step)
    for entry in records:
        writer.write(entry)
    writer.close()
    return writer


def test_each_record_is_a_line_and_a_set_of_events(workdir):
    timing = {"steps_per_second": None, "elapsed_seconds": 2.5}
    write(workdir, 0, [record(5, accuracy=0.25) | {"timing": timing}, record(7, "validation")])
    lines = workdir.metrics.read_text().splitlines()
    assert json.loads(lines[0]) == record(5, accuracy=0.25) | {"timing": timing}
    events = [(step, tag, round(value, 4)) for step, tag, value in read_events(workdir.tensorboard)]
    assert events == [
        (5, "train/loss", 0.2),
        (5, "train/accuracy", 0.25),
        (5, "timing/elapsed_seconds", 2.5),
        (7, "validation/loss", 0.1429),
        (7, "timing/elapsed_seconds", 17.5),
    ]


def test_resuming_cuts_back_to_the_step_and_to_whole_lines(workdir):
    entries = [record(5), record(5, "validation"), record(10), record(10, "test"), record(15)]
    write(workdir, 0, entries)
    with workdir.metrics.open("a") as file:
        file.write('{"step": 20, "spl')
    writer = write(workdir, 10, [record(15), record(20)])
    expected = [record(5), record(5, "validation"), record(10), record(15), record(20)]
    assert read_records(workdir.metrics) == expected
    assert writer.records == expected
    losses = [event[:2] for event in read_events(workdir.tensorboard) if "loss" in event[1]]
    assert losses == [(entry["step"], f"{entry['split']}/loss") for entry in expected]


def test_a_last_line_without_its_end_is_torn_even_if_it_parses(workdir):
    write(workdir, 0, [record(5)])
    with workdir.metrics.open("a") as file:
        file.write(json.dumps(record(1)))
    assert read_records(workdir.metrics) == [record(5)]


def test_what_was_recorded_can_be_found(workdir):
    write(workdir, 0, [record(5), record(5, "validation"), record(10)])
    writer = MetricsWriter(workdir, 10)
    assert writer.find(5, "validation") == record(5, "validation")
    assert writer.find(10, "validation") is None
    assert writer.elapsed_seconds() == 25.0
    writer.close()
    assert write(workdir, 0, []).elapsed_seconds() == 0.0


def test_other_files_beside_the_events_stay(workdir):
    workdir.tensorboard.mkdir()
    (workdir.tensorboard / "notes.txt").write_text("mine")
    write(workdir, 0, [record(1)])
    assert (workdir.tensorboard / "notes.txt").read_text() == "mine"


def test_a_number_that_json_lacks_is_refused(workdir):
    writer = MetricsWriter(workdir, 0)
    with pytest.raises(ValueError, match="not JSON compliant"):
        writer.write(record(1, accuracy=float("nan")))
    writer.close()
    assert read_records(workdir.metrics) == []
