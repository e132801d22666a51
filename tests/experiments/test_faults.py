"""The script of faults, a few times each; most of it in separate processes and slow."""

import pytest

from experiments.faults.__main__ import FAULTS, main
from experiments.faults.runs import differences


def test_differences_are_named_both_ways():
    assert differences({"a": 1, "b": 2}, {"a": 1, "c": 3}) == ["c", "b"]
    assert differences({"a": 0.1}, {"a": 0.1}) == []


def test_a_folder_in_use_and_an_unknown_fault_are_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["kill", f"--workdir={tmp_path}"]) == 2
    assert "is not empty" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["fire"])
    assert ended.value.code == 2


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_lost(fault, tmp_path, capsys):
    assert main([fault, "--times=2", f"--workdir={tmp_path}"]) == 0
    assert "0 differences" in capsys.readouterr().out or fault in ("damage", "nan", "disk")
