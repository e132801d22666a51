"""What is not as it was saved is never taken for what was saved."""

import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.checkpoints import (
    CheckpointManager,
    CheckpointReader,
    DamagedCheckpoint,
    verify_checkpoint,
)
from common.checkpoints.record import (
    METADATA_FILE,
    check_digests,
    make_record,
    read_record,
    seal_of,
)
from common.errors import UserError
from experiments.faults.damage import damage_all


def make_state(step):
    return {
        "params": {
            "kernel": jax.random.normal(jax.random.key(step), (30, 40)),
            "bias": jnp.ones(3),
        },
        "rng": jax.random.key(step),
        "step": jnp.int32(step),
    }


ABSTRACT = jax.eval_shape(lambda: make_state(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of steps 1, 2 and 3, of which 2 is the best."""
    folder = tmp_path_factory.mktemp("saved")
    with CheckpointManager(folder, 3, 1, "accuracy") as manager:
        for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.7)):
            manager.save(step, make_state(step), {"accuracy": accuracy}, notes={"position": step})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


@pytest.fixture
def open_manager(folder):
    said = []
    managers = []

    def opened():
        managers.append(CheckpointManager(folder, 3, 1, "accuracy", tell=said.append))
        managers[-1].said = said
        return managers[-1]

    yield opened
    for manager in managers:
        manager.close()


def change_an_array(folder):
    """Changes one byte in the middle of the array data."""
    file = max(folder.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def change_a_score(folder):
    file = folder / METADATA_FILE
    file.write_text(file.read_text().replace("0.7", "0.8"))


def change_a_note(folder):
    file = folder / METADATA_FILE
    file.write_text(file.read_text().replace('"position": 3', '"position": 4'))


def assert_is_step(state, step):
    same = jax.tree.map(lambda x, y: bool(jnp.all(x == y)), state, make_state(step))
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("harm", [change_an_array, empty, change_a_score, change_a_note])
def test_the_newest_is_set_aside_and_the_one_before_it_taken(open_manager, folder, harm):
    harm(folder / "3")
    manager = open_manager()
    step, state = manager.restore_first(manager.newest_first(), ABSTRACT)
    assert step == manager.latest_step() == 2
    assert_is_step(state, 2)
    (message,) = manager.said
    assert "checkpoints/3 is damaged: " in message and message.endswith("checkpoints/damaged/3")
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "damaged"]
    assert list(manager.damaged) == [3]
    manager.save(3, make_state(3), {"accuracy": 0.7})
    manager.wait()
    assert_is_step(manager.restore(3, ABSTRACT), 3)
    assert manager.notes(2) == {"position": 2}


def test_a_changed_array_is_named(folder):
    step = folder / "3"
    record = json.loads((step / METADATA_FILE).read_text())
    other = make_record(make_state(4), step=3, scores={"accuracy": 0.7})
    (step / METADATA_FILE).write_text(json.dumps(record | {"custom_metadata": other}))
    with pytest.raises(DamagedCheckpoint, match="3 is damaged: params/kernel, rng, step: not the"):
        CheckpointReader(folder, "accuracy").restore(3, ABSTRACT)


def test_an_array_that_is_missing_or_new_is_named(folder):
    record = read_record(folder / "3")
    state = make_state(3)
    check_digests(folder, record, state)
    integers = jax.random.key_data(state["rng"])
    check_digests(folder, record, {"rng": np.asarray(integers)}, ["rng"])
    with pytest.raises(DamagedCheckpoint, match=r"rng: not the numbers"):
        check_digests(folder, record, {"rng": integers}, ["rng"])
    params = state.pop("params")
    with pytest.raises(DamagedCheckpoint, match=r"params/bias, params/kernel: not the numbers"):
        check_digests(folder, record, state)
    with pytest.raises(DamagedCheckpoint, match=r": params/more: not the numbers"):
        check_digests(folder, record, {"params": params | {"more": jnp.ones(1)}}, ["params"])


@pytest.mark.parametrize("generator", ["rbg", "unsafe_rbg"])
def test_keys_of_every_generator_are_verified(tmp_path, generator):
    with CheckpointManager(tmp_path, 1, 1, "accuracy") as manager:
        manager.save(1, {"params": {}, "rng": jax.random.key(0, impl=generator)})
    assert "1 digests agree" in verify_checkpoint(tmp_path)


def test_the_best_falls_back_to_the_next_best(open_manager, folder):
    change_an_array(folder / "2")
    manager = open_manager()
    assert manager.best_step() == 2
    assert manager.restore_first(manager.best_first(), ABSTRACT)[0] == 3
    assert manager.best_step() == 3


def test_without_a_good_one_there_is_an_error_that_names_them(open_manager, folder):
    for step in ("1", "2", "3"):
        empty(folder / step)
    for _ in range(2):
        manager = open_manager()
        assert manager.has_lost_all()
        with pytest.raises(UserError, match="every checkpoint of the run is damaged.*1.*2.*3"):
            manager.restore_first(manager.newest_first(), ABSTRACT)


def test_reading_passes_over_damage_and_touches_nothing(folder):
    change_an_array(folder / "2")
    empty(folder / "3")
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    said = []
    reader = CheckpointReader(folder, "accuracy", tell=said.append)
    assert reader.all_steps() == [1, 2]
    assert reader.restore_first(reader.best_first(), ABSTRACT)[0] == 1
    assert len(said) == 2
    with pytest.raises(DamagedCheckpoint, match=f"3 is damaged: {METADATA_FILE} is missing"):
        reader.restore(3, ABSTRACT)
    with pytest.raises(UserError, match="every checkpoint in .* is damaged .step 3: .*step 2: "):
        reader.restore_first([2], ABSTRACT)
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before


def test_a_newer_format_is_told_and_nothing_is_moved(folder):
    file = folder / "3" / METADATA_FILE
    metadata = json.loads(file.read_text())
    record = metadata["custom_metadata"]
    file.write_text(json.dumps(metadata | {"custom_metadata": reseal(record | {"format": 2})}))
    with pytest.raises(UserError, match="3 is of format 2, this version reads up to 1; .*flax"):
        CheckpointManager(folder, 3, 1, "accuracy")
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3"]


def test_what_another_orbax_wrote_is_not_called_damaged(folder):
    file = folder / "3" / METADATA_FILE
    metadata = json.loads(file.read_text())
    record = metadata["custom_metadata"]
    versions = record["versions"] | {"orbax-checkpoint": "99.0"}
    file.write_text(
        json.dumps(metadata | {"custom_metadata": reseal(record | {"versions": versions})})
    )
    shutil.rmtree(folder / "3" / "state" / "d")
    with CheckpointManager(folder, 3, 1, "accuracy") as manager:
        with pytest.raises(UserError, match="it was written with orbax-checkpoint 99.0, here is"):
            manager.restore_first(manager.newest_first(), ABSTRACT)
        assert manager.latest_step() == 3


@pytest.mark.parametrize(
    "changes",
    [{"digests": []}, {"types": None}, {"versions": 1}, {"step": "3"}, {"content": 5}, {"x": 1}]
    + [{"format": None}, {"format": "1"}],
)
def test_a_forged_record_is_refused(folder, changes):
    file = folder / "3" / METADATA_FILE
    metadata = json.loads(file.read_text())
    forged = reseal(metadata["custom_metadata"] | changes)
    file.write_text(json.dumps(metadata | {"custom_metadata": forged}))
    with pytest.raises(DamagedCheckpoint, match="METADATA has entries of another kind"):
        read_record(folder / "3")


def reseal(record):
    return record | {"seal": seal_of(record)}


def test_a_renamed_checkpoint_is_known(folder):
    (folder / "3").rename(folder / "4")
    with pytest.raises(DamagedCheckpoint, match="it is the checkpoint of step 3"):
        read_record(folder / "4")


def test_no_damage_goes_unnoticed(saved, tmp_path):
    counts = damage_all(saved, tmp_path / "copies", ABSTRACT, 5, random.Random(1))
    assert counts["silent"] == counts["other"] == 0
    assert counts["earlier"] + counts["same"] == 5 and counts["earlier"] >= 2


def test_messages_stay_short_whatever_the_names(folder):
    many = {"params": {f"{'long' * 40}{i}": jnp.zeros(3) for i in range(99)}}
    with pytest.raises(UserError, match="does not fit: params.*; and 91 more$") as caught:
        CheckpointReader(folder, "accuracy").restore(3, jax.eval_shape(lambda: many))
    assert len(str(caught.value)) < 4000


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bfloat16])
def test_numbers_are_never_cast(folder, dtype):
    target = ABSTRACT | {"params": ABSTRACT["params"] | {"bias": jax.ShapeDtypeStruct((3,), dtype)}}
    message = rf"params/bias is float32\(3\) in the checkpoint, {np.dtype(dtype)}\(3\) here$"
    with pytest.raises(UserError, match=message):
        CheckpointReader(folder, "accuracy").restore(3, target)
