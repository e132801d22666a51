"""The command line that writes Pathfinder data sets and looks into them."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.pathfinder_data import ImageProgress, main, split_counts
from experiments.reports.dataset import choose_pairs

WRITE = ["--length=6", "--size=32", "--window=150", "--padding=11", "--count=400", "--workers=0"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Returns the folders of one data set in each format."""
    out = tmp_path_factory.mktemp("written")
    for format in ("array_record", "tfrecord", "png"):
        assert main([*WRITE, f"--format={format}", f"--out={out}", "--shard_size=100"]) == 0
    return {
        "array_record": next(out.glob("pathfinder/6_matched_32/*")),
        "tfrecord": out / "difficulty_6",
        "png": out / "curv_contour_length_6",
    }


@pytest.fixture
def copied(written, tmp_path):
    """Returns a copy of the PNG data set, to be changed."""
    return Path(shutil.copytree(written["png"], tmp_path / "copy"))


@pytest.mark.parametrize("count", [20, 38, 40, 202, 200_000])
def test_splits_are_even_and_make_up_the_count(count):
    counts = split_counts(count)
    assert sum(counts.values()) == count
    assert all(n > 0 and n % 2 == 0 for n in counts.values())
    assert counts["test"] == counts["validation"] <= count / 10 < counts["test"] + 2


@pytest.mark.parametrize("format", ["array_record", "tfrecord", "png"])
def test_inspection_tells_counts_shortcuts_duplicates_and_saves_a_picture(
    written, format, capsys, tmp_path
):
    sheet = tmp_path / "sheet.png"
    assert main([f"--inspect={written[format]}", f"--sheet={sheet}"]) == 0
    out = capsys.readouterr().out
    assert "train              320       160       160   50.0 % positive" in out
    assert "shards, all as they were written" in out
    assert "duplicates: none among 400 images" in out
    assert "10-fold cross-validated on 320 images of train, pairs kept together" in out
    assert "marker distance" in out and "% [" in out
    picture = np.asarray(Image.open(sheet).convert("L"))
    assert picture.shape[1] > 600 and 0.2 < (picture < 10).mean() < 0.9


def test_foreign_folders_are_inspected_too(written, tmp_path, capsys):
    shutil.copytree(written["tfrecord"] / "val", tmp_path / "records")
    shutil.copytree(written["png"] / "test", tmp_path / "pictures")
    for name in ("records", "pictures", "pictures"):  # again, now with a contact sheet in it
        assert main([f"--inspect={tmp_path / name}"]) == 0
        out = capsys.readouterr().out
        assert "all                 40        20        20" in out and "manifest" not in out
        assert (tmp_path / name / "contact_sheet.png").exists()


def test_planted_duplicates_are_found_across_and_within_splits(copied, capsys):
    (copied / "manifest.json").unlink()
    train, test = (copied / split / "imgs" for split in ("train", "test"))
    shutil.copy(train / "pos" / "sample_3.png", test / "pos" / "sample_1.png")
    again = Image.open(train / "pos" / "sample_5.png")
    again.save(train / "neg" / "sample_6.png", compress_level=0)  # other bytes, the same pixels
    assert main([f"--inspect={copied}"]) == 0
    out = capsys.readouterr().out
    assert "2 images are there more than once, 1 of them in more than one split, 1 under" in out
    assert "train 163 = test 21" in out  # 160 negatives come first


def test_damage_is_found_and_ends_with_status_1(copied, capsys):
    damaged = copied / "train" / "imgs" / "pos" / "sample_7.png"
    damaged.write_bytes(damaged.read_bytes()[::-1])
    (copied / "test" / "metadata" / "neg.npy").unlink()
    assert main([f"--inspect={copied}"]) == 1
    out = capsys.readouterr().out
    assert "damaged: train/imgs/{pos,neg}/sample_{0..49}.png: its SHA-256 is not that" in out
    assert "damaged: test/metadata/neg.npy: it is missing" in out


def test_unusable_folders_end_in_one_line(written, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, message in (
        (tmp_path / "gone", "does not exist"),
        (empty, "no data set known here"),
        (written["png"].parent, "3 data sets, choose one"),
    ):
        assert main([f"--inspect={path}"]) == 2
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1 and message in error[0]
    assert main([f"--inspect={written['png']}", f"--sheet={tmp_path / 'no' / 'x.png'}"]) == 2
    assert "--sheet: cannot write" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--format=array-record"], "--format: unknown name 'array-record'; the nearest is array_"),
        (["--layout=match"], "--layout: unknown name 'match'; the nearest is matched"),
        (["--length=six"], "--length: expected an integer, got 'six'"),
        (["--length=0"], "--length is 0; expected an integer, 1 or more"),
        (["--size=0"], "--size is 0; expected an integer, 1 or more"),
        (["--window=20"], "--window"),
        (["--window=wide"], "--window: expected a number, got 'wide'"),
        (["--count=31"], "--count: expected an even number, 20 or more, got 31"),
        (["--count=2"], "--count: expected an even number, 20 or more, got 2"),
        (["--seed=-1"], "--seed: expected 0 or more"),
        (["--shard_size=5"], "--shard_size: expected an even number"),
        (["--cuont=40"], "unknown flag --cuont; the nearest is --count"),
        (["more"], "unexpected argument 'more'"),
        (["--sheet=x.png"], "--sheet: only with --inspect"),
        (["--inspect=x"], "--length: only for writing"),
        (["--out="], "--out: missing"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2(changed, message, tmp_path, capsys):
    assert main([*WRITE, f"--out={tmp_path}", *changed]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not captured.out and not list(tmp_path.iterdir())


def test_other_arguments_and_occupied_folders_end_in_one_line(written, tmp_path, capsys):
    out = written["png"].parent
    assert main([*WRITE, "--format=png", f"--out={out}", "--shard_size=100", "--seed=1"]) == 2
    assert "with seed 0, not 1" in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "file").write_text("")
    assert main([*WRITE, f"--out={tmp_path / 'file'}"]) == 2
    assert "is a file; expected a folder" in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert "80 % train, 10 % validation" in capsys.readouterr().out


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_stop_it_at_once_and_the_same_command_goes_on(signum, status, tmp_path):
    command = [sys.executable, "-m", "experiments.pathfinder_data", *WRITE[:4]]
    command += ["--count=40000", "--workers=1", "--shard_size=20", "--format=png"]
    child = subprocess.Popen(
        [*command, f"--out={tmp_path}"], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    folder = tmp_path / "curv_contour_length_6"
    deadline = time.monotonic() + 60
    while not (folder / "train").exists():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(child.pid, signum) if signum == signal.SIGINT else child.send_signal(signum)
    assert child.wait(60) == status
    assert child.stderr is not None
    last = child.stderr.read().splitlines()[-1]
    child.stderr.close()
    assert last.startswith("stopped: ") and "run the same command to go on" in last
    assert not (folder / ".partial").exists() and (folder / "progress.jsonl").exists()
    numbers = [int(path.stem[7:]) for path in folder.glob("train/imgs/*/*.png")]
    assert len(numbers) % 20 == 0 or len(numbers) < 40_000


def test_progress_tells_speed_and_time_left():
    stream = io.StringIO()
    progress = ImageProgress("writing", stream)
    progress(100, 400)
    time.sleep(0.01)
    progress(400, 400)
    first, last = stream.getvalue().splitlines()
    assert first == "writing [######..................] 25 %  100/400"
    assert last.startswith("writing [########################] 100 %  400/400  ")
    assert last.endswith("images/s")


def test_cross_validation_gets_pairs_one_after_the_other():
    labels = np.array([1, 0] * 50 + [1] * 7, np.uint8)
    np.testing.assert_array_equal(choose_pairs(labels, 1000), np.arange(100))
    chosen = choose_pairs(labels, 40)
    assert len(set(chosen.tolist())) == 40
    np.testing.assert_array_equal(chosen[::2] + 1, chosen[1::2])
    in_blocks = np.sort(labels[:100])  # as PNG folders come: negatives, then positives
    chosen = choose_pairs(in_blocks, 40)
    np.testing.assert_array_equal(chosen[::2], chosen[1::2] + 50)
    assert not len(choose_pairs(np.ones(5, np.uint8), 40))
