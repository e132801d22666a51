"""Tokens on disk: encoded once, and again when damaged."""

import json

import numpy as np
import pytest

from common.data.token_files import cached_tokens
from common.data.tokenizers import ByteTokenizer
from common.errors import UserError

TEXT = "Some text, ünd more. " * 50


class Counting(ByteTokenizer):
    """Bytes, with a count of how often they were asked for."""

    def __init__(self, vocab_size=256, fingerprint="counting"):
        self.calls, self.vocab_size, self.fingerprint = 0, vocab_size, fingerprint

    def encode(self, text):
        self.calls += 1
        return super().encode(text)


def fail(line):
    raise AssertionError(line)


def test_tokens_are_encoded_once_and_mapped(tmp_path):
    tokenizer = Counting()
    for _ in range(3):
        tokens = cached_tokens(TEXT, tokenizer, tmp_path / "new", fail)
        assert isinstance(tokens, np.memmap) and tokens.dtype == np.uint16
        np.testing.assert_array_equal(tokens, ByteTokenizer().encode(TEXT))
    assert tokenizer.calls == 1
    (folder,) = (tmp_path / "new" / "tokens").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "tokens.npy"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["tokens"] == manifest["text_bytes"] == len(TEXT.encode())
    assert manifest["tokenizer"] == "bytes"


def test_another_text_or_tokenizer_has_its_own_file(tmp_path):
    cached_tokens(TEXT, Counting(), tmp_path, fail)
    cached_tokens(TEXT + ".", Counting(), tmp_path, fail)
    large = cached_tokens(TEXT, Counting(2**16 + 1, "other"), tmp_path, fail)
    assert large.dtype == np.int32
    assert len(list((tmp_path / "tokens").iterdir())) == 3


def damage_tokens(folder):
    data = bytearray((folder / "tokens.npy").read_bytes())
    data[-3] ^= 1
    (folder / "tokens.npy").write_bytes(data)


def cut_tokens(folder):
    (folder / "tokens.npy").write_bytes((folder / "tokens.npy").read_bytes()[:-2])


def empty_manifest(folder):
    (folder / "manifest.json").write_text("")


def other_manifest(folder):
    (folder / "manifest.json").write_text("[1]")


def wrong_count(folder):
    manifest = json.loads((folder / "manifest.json").read_text()) | {"tokens": 3}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def no_tokens(folder):
    (folder / "tokens.npy").unlink()


@pytest.mark.parametrize(
    "damage",
    [damage_tokens, cut_tokens, empty_manifest, other_manifest, wrong_count, no_tokens],
)
def test_damage_is_noticed_told_and_mended(tmp_path, damage):
    tokenizer, told = Counting(), []
    cached_tokens(TEXT, tokenizer, tmp_path, fail)
    (folder,) = (tmp_path / "tokens").iterdir()
    damage(folder)
    tokens = cached_tokens(TEXT, tokenizer, tmp_path, told.append)
    np.testing.assert_array_equal(tokens, ByteTokenizer().encode(TEXT))
    assert told == [f"{folder}: damaged tokens; they are made again"]
    assert tokenizer.calls == 2
    cached_tokens(TEXT, tokenizer, tmp_path, fail)
    assert tokenizer.calls == 2
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == [folder.name]


def test_what_is_left_by_a_failure_is_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
        cached_tokens(TEXT, Counting(), tmp_path)
    assert list((tmp_path / "tokens").iterdir()) == []


def test_a_cache_that_is_a_file_is_named(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*cache/tokens: "):
        cached_tokens(TEXT, Counting(), tmp_path / "cache")


def test_another_process_may_be_first(tmp_path):
    class Slow(Counting):
        def encode(self, text):
            if self.calls == 0:
                self.calls = 1
                cached_tokens(text, self, tmp_path, fail)
            return super().encode(text)

    tokens = cached_tokens(TEXT, Slow(), tmp_path, fail)
    np.testing.assert_array_equal(tokens, ByteTokenizer().encode(TEXT))
    assert len(list((tmp_path / "tokens").iterdir())) == 1
