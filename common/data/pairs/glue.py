"""The pair tasks of GLUE with classes as labels: their TSV files, TFDS, and the Hugging Face hub.

A TSV file of GLUE is not quoted: a double quote is a letter like any other, and a reader of CSV
would join lines at it. Source: Wang et al. 2018, "GLUE".
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from common.data.pairs.examples import Pairs
from common.data.text import load_corpus
from common.errors import DataError, UserError, shown
from common.files import StrPath

SPLITS = {"train": "train", "validation": "dev"}
"""Names of splits, and of their TSV files."""
SOURCES = ("tsv", "tfds", "hub")


@dataclasses.dataclass(frozen=True)
class GlueTask:
    """Where a task has what.

    Attributes:
        columns: of sentence 1, sentence 2 and label in the TSV file's header.
        fields: of both sentences in TFDS and on the hub.
        classes: names of the labels, in the order of GLUE's numbers.
        values: the labels as TSV files write them, in this order; the names by default.
    """

    columns: tuple[str, str, str]
    fields: tuple[str, str]
    classes: tuple[str, ...]
    values: tuple[str, ...] = ()


_SENTENCES = ("sentence1", "sentence2")
_ENTAILED = ("entailment", "not_entailment")
_SAME = ("different", "same")
GLUE: dict[str, GlueTask] = {
    "rte": GlueTask((*_SENTENCES, "label"), _SENTENCES, _ENTAILED),
    "qnli": GlueTask(("question", "sentence", "label"), ("question", "sentence"), _ENTAILED),
    "wnli": GlueTask((*_SENTENCES, "label"), _SENTENCES, _ENTAILED[::-1], ("0", "1")),
    "mrpc": GlueTask(("#1 String", "#2 String", "Quality"), _SENTENCES, _SAME, ("0", "1")),
    "qqp": GlueTask(
        ("question1", "question2", "is_duplicate"), ("question1", "question2"), _SAME, ("0", "1")
    ),
    "mnli": GlueTask(
        (*_SENTENCES, "gold_label"),
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
    ),
}


def load_glue(name: str, split: str, source: str = "tsv", path: StrPath = "") -> Pairs:
    """Reads one split of a task.

    Args:
        name: a key of `GLUE`.
        split: 'train' or 'validation'; of MNLI the matched one.
        source: 'tsv' for the files in `path`, 'tfds' for TensorFlow Datasets ('glue/<name>',
            prepared in `path` or in its usual place, else downloaded), 'hub' for the Parquet files
            of 'nyu-mll/glue'. The last two need network where nothing is stored yet.
        path: folder of the data.

    Raises:
        UserError: unknown names, or data that is not there or does not fit.
    """
    if name not in GLUE:
        raise UserError(f"no pair task {name!r} in GLUE; choose one of {', '.join(GLUE)}")
    if split not in SPLITS:
        raise UserError(f"no split {split!r}; choose one of {', '.join(SPLITS)}")
    if source not in SOURCES:
        raise UserError(f"no source {source!r} of GLUE; choose one of {', '.join(SOURCES)}")
    if source == "tsv":
        stem = SPLITS[split] + ("_matched" if (name, split) == ("mnli", "validation") else "")
        return read_glue_tsv(Path(path) / f"{stem}.tsv", name)
    stored = split + ("_matched" if (name, split) == ("mnli", "validation") else "")
    rows = _tfds_rows(name, stored, path) if source == "tfds" else _hub_rows(name, stored)
    return _from_rows(rows, GLUE[name], f"glue/{name}, {stored}")


def read_glue_tsv(path: StrPath, name: str) -> Pairs:
    """Reads a TSV file of a task with a header; the columns are found by their names.

    Raises:
        DataError: no such file or column, a line with another number of columns, or an unknown
            label; with the line's number.
    """
    task = GLUE[name]
    lines = load_corpus(path).replace("\r\n", "\n").removesuffix("\n").split("\n")
    header = lines[0].split("\t")
    if missing := [column for column in task.columns if column not in header]:
        raise DataError(f"{path}: no column {missing[0]!r}; there are {shown(', '.join(header))}")
    places = [header.index(column) for column in task.columns]
    known = {text: number for number, text in enumerate(task.values or task.classes)}
    first, second, labels = [], [], []
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        if len(cells) != len(header):
            raise DataError(
                f"{path}: line {number} has {len(cells)} columns; expected {len(header)}"
            )
        a, b, label = (cells[place] for place in places)
        if label not in known:
            raise DataError(
                f"{path}: line {number} has label {shown(label)}; expected {', '.join(known)}"
            )
        first.append(a)
        second.append(b)
        labels.append(known[label])
    if not labels:
        raise DataError(f"{path}: a header and no examples")
    return Pairs(tuple(first), tuple(second), np.array(labels, np.int32), task.classes)


def _from_rows(rows: Iterable[dict[str, Any]], task: GlueTask, where: str) -> Pairs:
    """Makes pairs of records with the fields of the task and a numbered label."""
    first, second, labels = [], [], []
    for row in rows:
        a, b = (row[field] for field in task.fields)
        first.append(a.decode() if isinstance(a, bytes) else str(a))
        second.append(b.decode() if isinstance(b, bytes) else str(b))
        labels.append(int(row["label"]))
    array = np.array(labels, np.int32)
    if not len(array) or array.min() < 0 or array.max() >= len(task.classes):
        raise DataError(f"{where}: no examples, or labels other than 0 to {len(task.classes) - 1}")
    return Pairs(tuple(first), tuple(second), array, task.classes)


def _tfds_rows(name: str, split: str, path: StrPath) -> Iterable[dict[str, Any]]:
    import tensorflow_datasets as tfds  # slow to import

    try:
        builder = tfds.builder(f"glue/{name}", data_dir=str(path) or None)
        builder.download_and_prepare(file_format="array_record")
        return list(builder.as_data_source(split=split))
    except Exception as error:  # its downloads raise what they please
        raise UserError(f"glue/{name} of TFDS: {_first_line(error)}") from error


def _hub_rows(name: str, split: str) -> Iterable[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet
        from huggingface_hub import hf_hub_download

        file = hf_hub_download(
            "nyu-mll/glue", f"{name}/{split}-00000-of-00001.parquet", repo_type="dataset"
        )
        return parquet.read_table(file).to_pylist()
    except Exception as error:  # the hub's errors share no base class with those of its transport
        raise UserError(f"nyu-mll/glue, {name}, of the hub: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
