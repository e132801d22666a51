import datetime
import json
import re

import jax
import pytest
from ml_collections import ConfigDict

from common.errors import UserError
from common.train import Workdir, describe_environment
from common.train.workdir import config_changes
from tests.train.toy import toy_config


def test_the_config_is_recorded_once(tmp_path):
    folder = Workdir(tmp_path / "new" / "folder")
    folder.claim(toy_config())
    recorded = folder.path / "config.json"
    assert json.loads(recorded.read_text()) == toy_config().to_dict()
    before = recorded.stat().st_mtime_ns
    folder.claim(toy_config())
    assert recorded.stat().st_mtime_ns == before
    assert [path.name for path in folder.path.iterdir()] == ["config.json"]


def test_another_config_is_refused_with_both_values(tmp_path):
    Workdir(tmp_path).claim(toy_config())
    changed = toy_config(steps=40)
    changed.optim.learning_rate = 0.5
    changed.report.images = 8
    with pytest.raises(UserError) as caught:
        Workdir(tmp_path).claim(changed)
    message = str(caught.value)
    assert "optim.learning_rate was 0.05, now 0.5" in message
    assert "train.steps was 23, now 40" in message
    assert "report" not in message.replace(str(tmp_path), "")
    assert "\n" not in message


def test_tuples_and_absent_keys_are_compared(tmp_path):
    Workdir(tmp_path).claim(ConfigDict({"model": {"sizes": (3, 4)}, "old": None}))
    Workdir(tmp_path).claim(ConfigDict({"model": {"sizes": (3, 4)}, "old": None}))
    changes = config_changes({"a": {"b": 1}, "c": None}, {"a": {"b": 1, "d": "x"}})
    assert changes == ["c was null, now absent", 'a.d was absent, now "x"']


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to workdir .*file: File exists"):
        Workdir(tmp_path / "file").claim(toy_config())
    with pytest.raises(UserError, match="cannot write to workdir .*file/below: Not a directory"):
        Workdir(tmp_path / "file" / "below").claim(toy_config())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is not valid JSON"):
        Workdir(tmp_path).claim(toy_config())


def test_the_environment_tells_versions_and_hardware_but_no_paths(tmp_path):
    environment = describe_environment()
    assert environment["packages"]["jax"] == jax.__version__
    assert environment["cpu_cores"] >= 1
    assert environment["device_platform"] == "cpu"
    assert datetime.datetime.fromisoformat(environment["start_time"]).tzinfo is datetime.UTC
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?|None", str(environment["git_commit"]))
    assert str(tmp_path.anchor + "work") not in json.dumps(environment)


def test_a_resumed_session_adds_what_changed_to_the_environment(tmp_path):
    folder = Workdir(tmp_path)
    folder.record_environment(0, command=["python", "run.py"])
    file = tmp_path / "environment.json"
    first = json.loads(file.read_text())
    assert first["command"] == ["python", "run.py"]
    file.write_text(
        json.dumps(first | {"start_time": "2000-01-01T00:00:00+00:00", "cpu": "abacus"})
    )
    folder.record_environment(12, command=["python", "run.py"])
    folder.record_environment(15, command=["python", "run.py", "--profile"])
    sessions = json.loads(file.read_text())["resumed"]
    assert [session["step"] for session in sessions] == [12, 15]
    assert set(sessions[0]) == {"step", "start_time", "cpu"}
    assert sessions[1]["command"][-1] == "--profile"
    folder.record_environment(0)
    assert "resumed" not in json.loads(file.read_text())
