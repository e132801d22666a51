"""Text from WikiText-2, files and folders, and made-up articles."""

import re
import sys
import types
from pathlib import Path

import pytest

from common.data import corpora
from common.data.corpora import (
    SPLITS,
    describe_text,
    download_wikitext,
    read_text,
    read_wikitext,
    split_text,
)
from common.data.made_up import generate_text
from common.errors import DataError, UserError

EXCERPTS = Path(__file__).parent / "wikitext"


def test_excerpts_come_back_byte_for_byte_and_are_told_to_be_excerpts():
    told = []
    texts = read_wikitext(EXCERPTS, say=told.append)
    assert list(texts) == list(SPLITS)
    for split, text in texts.items():
        assert text.encode() == (EXCERPTS / f"wiki.{split}.raw").read_bytes()
    wanted = (("train", 37, 36718), ("valid", 18, 3760), ("test", 13, 4358))
    assert told == [
        f"{EXCERPTS / f'wiki.{split}.raw'}: not the released file of WikiText-2: "
        f"{lines} lines; expected {released}"
        for split, lines, released in wanted
    ]


def test_the_released_file_is_known_by_its_digest(tmp_path, monkeypatch, capsys):
    text = "a line \n" * 4358
    (tmp_path / "wiki.test.raw").write_text(text)
    digest = describe_text(text)["sha256"]
    monkeypatch.setitem(corpora.RELEASE_SHA256, "wiki.test.raw", digest)
    assert read_wikitext(tmp_path, ["test"]) == {"test": text}
    assert capsys.readouterr().err == ""
    (tmp_path / "wiki.test.raw").write_text(text.replace("line", "lime", 1))
    read_wikitext(tmp_path, ["test"])
    warning = capsys.readouterr().err
    assert re.fullmatch(
        rf"warning: .*wiki\.test\.raw: n.*: SHA-256 is \w{{16}}\.\.\.; expected {digest[:16]}.+\n",
        warning,
    )


def test_the_tokenised_variant_is_taken_where_there_is_no_other(tmp_path):
    (tmp_path / "wiki.valid.tokens").write_text(" <unk> is rare \n" * 3760)
    told = []
    assert read_wikitext(tmp_path, ["valid"], told.append)["valid"].startswith(" <unk>")
    assert told == []
    (tmp_path / "wiki.train.raw").write_text("x\n")
    with pytest.raises(DataError, match=r"wiki\.valid\.raw: does not exist"):
        read_wikitext(tmp_path, ["valid"])


def test_a_missing_split_says_where_to_get_it(tmp_path):
    with pytest.raises(DataError) as caught:
        read_wikitext(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/wiki.train.raw: does not exist; expected a split of WikiText-2, to be had "
        "from the hub, Salesforce/wikitext, configuration wikitext-2-raw-v1 (or download_wikitext "
        "does it)"
    )
    with pytest.raises(UserError, match="split is 'dev'; choose of train, valid, test"):
        read_wikitext(tmp_path, ["dev"])


def offer_datasets(monkeypatch, load) -> None:
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))


def test_rows_of_the_hub_become_the_files_of_the_release(tmp_path, monkeypatch):
    released = read_wikitext(EXCERPTS, say=lambda _: None)
    asked = []

    def load(name, configuration, split):
        asked.append((name, configuration, split))
        lines = released["valid" if split == "validation" else split].splitlines(keepends=True)
        return {"text": [line if line.strip() else "" for line in lines]}

    offer_datasets(monkeypatch, load)
    folder = tmp_path / "new" / "folder"
    download_wikitext(folder)
    assert read_wikitext(folder, say=lambda _: None) == released
    hub = ("Salesforce/wikitext", "wikitext-2-raw-v1")
    assert asked == [(*hub, split) for split in ("train", "validation", "test")]
    download_wikitext(folder)  # all there
    assert len(asked) == 3


def test_without_the_package_or_a_network_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        UserError, match="^download_wikitext needs the package datasets: pip install"
    ):
        download_wikitext(tmp_path)

    def load(name, configuration, split):
        raise ConnectionError("no route\nand a long story")

    offer_datasets(monkeypatch, load)
    with pytest.raises(UserError) as caught:
        download_wikitext(tmp_path)
    assert str(caught.value) == ("cannot fetch Salesforce/wikitext (wikitext-2-raw-v1): no route")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_text_is_read_in_order_of_names(tmp_path):
    files = {"b.txt": "second", "a.md": "first\n", ".c.txt": "hidden", "d.png": "no text"}
    for name, text in (files | {"c.RAW": "3\n\n"}).items():
        (tmp_path / name).write_text(text)
    (tmp_path / "e.txt.d").mkdir()
    assert read_text(tmp_path) == "first\nsecond\n3\n\n"
    assert read_text(tmp_path / "b.txt") == "second"
    with pytest.raises(DataError, match=r"e\.txt\.d: no text files; expected some of \.txt, \.raw"):
        read_text(tmp_path / "e.txt.d")
    (tmp_path / "0.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"0\.txt: no UTF-8 at byte 0"):
        read_text(tmp_path)
    with pytest.raises(DataError, match="none: does not exist"):
        read_text(tmp_path / "none")


@pytest.mark.parametrize("valid", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("test", [0.0, 0.1, 0.5])
def test_splits_are_cut_at_lines_by_share(valid, test):
    text = "".join(f"line {i}{'.' * (i % 7)}\n" for i in range(200))
    parts = split_text(text, valid, test)
    assert "".join(parts[split] for split in SPLITS) == text
    assert all(part == "" or part.endswith("\n") for part in parts.values())
    lines = text.splitlines(keepends=True)
    starts = [sum(map(len, lines[:i])) for i in range(len(lines) + 1)]
    for cut, share in ((len(parts["train"]), valid + test), (len(text) - len(parts["test"]), test)):
        assert cut == min(
            start for start in starts if start >= len(text) - round(share * len(text))
        )


def test_a_share_that_ends_with_a_line_is_met_exactly():
    parts = split_text("line\n" * 10, 0.1, 0.2)
    assert [text.count("\n") for text in parts.values()] == [7, 1, 2]


def test_texts_that_cannot_be_cut_are_refused():
    with pytest.raises(
        UserError, match="the valid split is empty: 6 characters in 1 lines cannot be"
    ):
        split_text("a b c\n")
    with pytest.raises(UserError, match="shares of validation and test are 0.5 and 0.5; expected"):
        split_text("a\n" * 9, 0.5, 0.5)
    with pytest.raises(UserError, match="are -0.1 and nan"):
        split_text("a\n" * 9, -0.1, float("nan"))


def test_a_text_is_described_by_its_counts():
    assert describe_text("Ünï code \n\n x\n") == {
        "bytes": 16,
        "lines": 3,
        "words": 3,
        "sha256": "f7a17a59b309cfae2bf77c5270b5da6e81849790970eedec84079892fbf1f215",
    }


def test_made_up_articles_are_the_same_everywhere_and_repeat_their_names():
    text = generate_text(3, seed=0)
    assert text.startswith(
        " = Ziwennar = \n \n The wooden tower names Ziwennar and the hill . Many"
    )
    assert generate_text(40, seed=0).startswith(text)
    assert generate_text(3, seed=1) != text
    articles = re.split(r"^ = (\w+) = $", generate_text(50), flags=re.MULTILINE)
    titles, bodies = articles[1::2], articles[2::2]
    assert len(titles) == 50 and len(set(titles)) > 45
    assert all(body.count(title) > 1 for title, body in zip(titles, bodies, strict=True))
