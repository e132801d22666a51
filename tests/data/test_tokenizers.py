"""Tokenizers give back what they were given."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import tokenizers as module
from common.data.tokenizers import (
    BytePairTokenizer,
    ByteTokenizer,
    PretrainedTokenizer,
    load_gpt2,
    make_tokenizer,
    train_bpe,
)
from common.errors import DataError, UserError

TEXT = (Path(__file__).parent / "wikitext" / "wiki.train.raw").read_text()
ODD = " \n\n  <|endoftext|>\t<unk> Senjō 戦場の😀 's\r\n\u2028\ufeff\0 x  "
TRAINED = train_bpe(TEXT, 400)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))  # no halves of surrogate pairs


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), TRAINED], ids=lambda t: t.name)
@settings(max_examples=60, deadline=None)
@given(text=ANY_TEXT)
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert (ids.dtype, ids.ndim) == (np.int32, 1)
    assert tokenizer.decode(ids) == text
    assert ids.size == 0 or (ids.min() >= 0 and ids.max() < tokenizer.vocab_size)


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), TRAINED], ids=lambda t: t.name)
def test_odd_texts_come_back(tokenizer):
    for text in ("", ODD, ODD * 3, TEXT):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_bytes_are_those_of_utf8():
    assert ByteTokenizer().encode("aä").tolist() == [97, 195, 164]
    assert ByteTokenizer().decode(np.array([97, 195])) == "a\ufffd"
    assert TRAINED.decode(TRAINED.encode("ä")[:1]) == "\ufffd"


def merge_in_loops(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Applies byte-pair merges to one word, the earliest-learned first (Sennrich et al. 2016)."""
    parts = list(word)
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    while True:
        pairs = [ranks.get(pair, len(merges)) for pair in zip(parts, parts[1:], strict=False)]
        if not pairs or min(pairs) == len(merges):
            return parts
        place = pairs.index(min(pairs))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def test_encoding_follows_the_merges(tmp_path):
    TRAINED.save(tmp_path)
    vocab = json.loads((tmp_path / "vocab.json").read_text())
    lines = (tmp_path / "merges.txt").read_text().splitlines()[1:]
    merges = [tuple(line.split(" ")) for line in lines]
    assert len(vocab) == TRAINED.vocab_size == 400 and len(merges) == 400 - 256
    for word in ("game", "development", "Valkyria", "x", "1923"):
        wanted = [vocab[part] for part in merge_in_loops("Ġ" + word, merges)]
        assert TRAINED.encode(" " + word).tolist() == wanted


def test_training_is_repeatable_and_shortens_the_text():
    again, larger = train_bpe(TEXT, 400), train_bpe(TEXT, 600)
    assert again.fingerprint == TRAINED.fingerprint != larger.fingerprint
    lengths = [len(tokenizer.encode(TEXT)) for tokenizer in (ByteTokenizer(), TRAINED, larger)]
    assert lengths[0] > 1.8 * lengths[1] and lengths[1] > 1.1 * lengths[2]
    assert train_bpe("ab ab", 300).vocab_size < 300
    with pytest.raises(UserError, match="size of the vocabulary is 255; expected 256"):
        train_bpe(TEXT, 255)


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_pieces_encode_like_the_whole(piece, monkeypatch):
    text = TEXT[:4000] + ODD * 5 + TEXT[4000:6000]
    whole = [TRAINED.encode(text), train_bpe(text, 300).fingerprint]
    assert len(list(module._pieces(text))) == 1
    monkeypatch.setattr(module, "PIECE", piece)
    assert len(list(module._pieces(text))) > 3
    np.testing.assert_array_equal(TRAINED.encode(text), whole[0])
    assert train_bpe(text, 300).fingerprint == whole[1]


def test_files_of_gpt2_are_read_under_both_names(tmp_path):
    TRAINED.save(tmp_path)
    loaded = load_gpt2(tmp_path)
    assert (loaded.name, loaded.vocab_size) == ("gpt2", 400)
    assert loaded.fingerprint == TRAINED.fingerprint
    np.testing.assert_array_equal(loaded.encode(TEXT + ODD), TRAINED.encode(TEXT + ODD))
    with pytest.raises(UserError, match=r"vocab\.json exists already"):
        TRAINED.save(tmp_path)
    (tmp_path / "vocab.json").rename(tmp_path / "encoder.json")
    (tmp_path / "merges.txt").rename(tmp_path / "vocab.bpe")
    assert load_gpt2(tmp_path).fingerprint == TRAINED.fingerprint


def test_transformers_reads_the_same_files(tmp_path):
    TRAINED.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "GPT2Tokenizer"})
    )
    loaded = PretrainedTokenizer(tmp_path)
    assert loaded.name == f"hub:{tmp_path}"
    text = TEXT + ODD.replace("<|endoftext|>", "").replace("<unk>", "")  # markers of its own
    ids = loaded.encode(text)
    np.testing.assert_array_equal(ids, TRAINED.encode(text))
    assert ids.dtype == np.int32 and loaded.decode(ids) == text
    assert loaded.vocab_size >= 400
    assert len(loaded.fingerprint) == 16
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no tokenizer in .*empty, nor on the hub: ") as caught:
        PretrainedTokenizer(tmp_path / "empty")
    assert "\n" not in str(caught.value)


def broken(tmp_path, vocab: str | None, merges: str | bytes | None) -> None:
    TRAINED.save(tmp_path)
    if vocab is not None:
        (tmp_path / "vocab.json").write_text(vocab)
    if merges is not None:
        data = merges if isinstance(merges, bytes) else merges.encode()
        (tmp_path / "merges.txt").write_bytes(data)


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        ("{", None, r"vocab\.json: no JSON: "),
        ("[1, 2]", None, r"vocab\.json: expected tokens with the numbers from 0 on"),
        ('{"a": 0, "b": 2}', None, r"vocab\.json: expected tokens with the numbers from 0 on"),
        ('{"a": 0, "b": true}', None, r"vocab\.json: expected tokens with the numbers from 0 on"),
        ('{"a": 0, "b": [1]}', None, r"vocab\.json: expected tokens with the numbers from 0 on"),
        ('{"a": 0, "b": 1}', None, r"vocab\.json: 254 of 256 bytes have no token"),
        (None, "a b\nc\n", r"merges\.txt: line 2: expected two tokens with a space between"),
        (None, "a b\nno way\n", r"merges\.txt: merges do not fit vocab\.json: .*`ab`"),
        (None, b"a b\n\xff c\n", r"merges\.txt: no UTF-8 at byte 4"),
    ],
)
def test_damaged_files_are_named(tmp_path, vocab, merges, message):
    broken(tmp_path, vocab, merges)
    with pytest.raises(DataError, match=message) as caught:
        load_gpt2(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"vocab\.json: does not exist; expected a file of GPT-2's"):
        load_gpt2(tmp_path)


def test_a_configuration_names_its_tokenizer(tmp_path):
    TRAINED.save(tmp_path)
    assert isinstance(make_tokenizer("bytes", TEXT), ByteTokenizer)
    trained = make_tokenizer("bpe:300", TEXT)
    assert (trained.name, trained.vocab_size) == ("bpe:300", 300)
    assert isinstance(make_tokenizer(f"gpt2:{tmp_path}", TEXT), BytePairTokenizer)
    for kind in ("byte", "bpe", "bpe:x", "gpt2", "hub:", ""):
        with pytest.raises(UserError) as caught:
            make_tokenizer(kind, TEXT)
        assert str(caught.value) == (
            f"tokenizer is {kind!r}; choose bytes, bpe:<size>, gpt2:<folder> or "
            "hub:<name or folder>"
        )
