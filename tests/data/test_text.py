"""Text files, whole and damaged."""

import gzip
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.data import load_corpus
from common.errors import DataError


def test_text_comes_back_as_stored_but_for_a_byte_order_mark(tmp_path):
    path = tmp_path / "x.txt"
    text = "one\r\ntwo\rthree\n\n = Ünïcödé 漢字 😀 = \n\u2028 last\ufeff"
    for mark in ("", "\ufeff"):
        path.write_bytes((mark + text).encode())
        assert load_corpus(path) == load_corpus(str(path)) == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(text=st.text(st.characters(exclude_categories=["C"]), min_size=1))
def test_any_printable_text_comes_back(tmp_path, text):
    path = tmp_path / "x.txt"
    path.write_text("." + text, encoding="utf-8", newline="")
    assert load_corpus(path) == "." + text


def test_a_rare_control_character_is_text(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes(b"\x1b[1mbold" + b"word " * 100 + b"\f\t\x7f")
    assert load_corpus(path).endswith("\f\t\x7f")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty, or nothing but white space; expected UTF-8 text"),
        (b" \n\t\r\n", "nothing but white space"),
        (b"\xef\xbb\xbf", "nothing but white space"),
        (b"\xef\xbb\xbf \n", "nothing but white space"),
        ("\u3000\u2003\n".encode(), "nothing but white space"),
        (b"good\nna\xefve\n", "no UTF-8 at byte 7, line 2"),
        (b"\xef\xbb\xbfa\n\n\xc3", "no UTF-8 at byte 6, line 3"),
        (b"surrogate \xed\xa0\x80", "no UTF-8 at byte 10, line 1"),
        (b"good\n\nb\0d", "NUL byte at byte 7, line 3; expected UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "is a PNG image by its first bytes; expected UTF-8"),
        (gzip.compress(b"text", mtime=0), "is gzip-compressed by its first bytes"),
        (pickle.dumps("text", 4), "is a Python pickle by its first bytes"),
        (b"PK\x03\x04 and more", "is a zip archive by its first bytes"),
        ("text".encode("utf-16"), "is UTF-16 text by its first bytes"),
        (
            b"many\n" + b"\x01\x02word" * 9,
            "18 control characters in 59 bytes, the first at byte 5, line 2; expected UTF-8",
        ),
    ],
)
def test_faults_are_named(tmp_path, content, message):
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_corpus(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"x\.txt: does not exist; expected a UTF-8 text file"):
        load_corpus(tmp_path / "x.txt")
    with pytest.raises(DataError, match="is a folder; expected a UTF-8 text file"):
        load_corpus(tmp_path)
