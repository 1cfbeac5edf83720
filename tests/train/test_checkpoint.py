"""Checkpoints: kept by age and by quality, restored onto other meshes, checked, and passed over when damaged."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill.config import ParallelConfig
from distill.parallel.mesh import make_mesh
from distill.train.checkpoint import CheckpointError, Checkpoints, checksum, checksums, read_checkpoint
from distill.train.state import create_state
from tests.train.problems import Lines


def state_at(step, mesh=None, width=64):
    """A state whose values depend on the step; its matrices are split over `fsdp` and `tensor` where there are such."""
    rng = np.random.default_rng(step)
    params = {
        "mlp": {"up": {"kernel": rng.normal(size=(32, width)), "bias": rng.normal(size=width)}},
        "scale": jnp.asarray(rng.normal(), jnp.bfloat16),
    }
    params = jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf, jnp.float32), params)
    mesh = mesh or make_mesh(ParallelConfig(), devices=jax.devices()[:1])
    state = create_state(params, optax.adam(1e-3), mesh)
    return state._replace(step=jax.device_put(jnp.int32(step), state.step.sharding))


def open_at(folder, *, like=None, reporter=None, **keep):
    return Checkpoints(folder / "checkpoints", like or state_at(0), metric="q", reporter=reporter or Lines(), **keep)


def write(folder, metrics, mesh=None, **keep):
    """Saves one checkpoint a step, from step 1 on, with these values of the metric (None: no validation)."""
    checkpoints = open_at(folder, like=state_at(0, mesh), **keep)
    for step, value in enumerate(metrics, 1):
        checkpoints.save(state_at(step, mesh), None if value is None else {"q": value})
    checkpoints.close()


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(expected))


def steps_in(folder):
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


@pytest.mark.parametrize(
    ("metrics", "keep", "kept"),
    [
        ([0.1, 0.9, 0.3, 0.2, None], {}, [2, 4, 5]),
        ([0.1, 0.9, 0.3, 0.2, None], {"keep_last": 3}, [2, 3, 4, 5]),
        ([0.1, 0.9, 0.3, 0.2, 0.1, None], {"keep_best": 2}, [2, 3, 5, 6]),
        ([0.9, 0.9, None, None, None], {}, [2, 4, 5]),  # of equal ones the later
        ([None, 0.5, None, None], {}, [2, 3, 4]),  # one without a validation is never the best
    ],
)
def test_the_newest_and_the_best_are_kept(tmp_path, metrics, keep, kept):
    write(tmp_path, metrics, **keep)
    assert steps_in(tmp_path) == kept


def test_a_step_may_be_saved_again_with_its_validation(tmp_path):
    write(tmp_path, [None])
    write(tmp_path, [0.7])
    assert read_checkpoint(tmp_path / "checkpoints").metrics == {"q": 0.7}


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("saved", [ParallelConfig(2, 4, 1), ParallelConfig(1, 2, 4)])
def test_eight_devices_restore_on_fewer_bit_for_bit(tmp_path, saved, devices):
    write(tmp_path, [0.5], make_mesh(saved))
    mesh = make_mesh(ParallelConfig(1, devices, 1), devices=jax.devices()[:devices])
    restored = open_at(tmp_path, like=state_at(0, mesh)).restore_latest()
    assert restored is not None and (restored.step, restored.metrics) == (1, {"q": 0.5})
    assert_same(restored.state, state_at(1))
    kernel = restored.state.params["mlp"]["up"]["kernel"]
    assert kernel.sharding.mesh == mesh and len(kernel.sharding.device_set) == devices


def test_the_checksum_is_that_of_murmur_and_the_same_on_any_mesh():
    def murmur_finaliser(value):
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            value = ((value ^ (value >> shift)) * factor) % 2**32
        return value ^ (value >> 16)

    values = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    words = values.view(np.uint32).reshape(-1).tolist()
    expected = sum(murmur_finaliser(word ^ (i * 0x9E3779B1) % 2**32) for i, word in enumerate(words)) % 2**32
    assert int(checksum(jnp.asarray(values))) == expected
    mesh = make_mesh(ParallelConfig(2, 2, 2))
    for spec in (("fsdp", "data"), (None, ("data", "fsdp")), (("fsdp", "tensor"),), ()):
        split = jax.device_put(values, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec)))
        assert checksums({"leaf": split, "scalar": jnp.int32(3)})["leaf"] == expected, spec


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_])
def test_any_flipped_bit_and_any_two_swapped_elements_change_the_checksum(dtype):
    values = np.random.default_rng(1).integers(0, 2, 64).astype(dtype)
    before = int(checksum(jnp.asarray(values)))
    bits = 1 if dtype == jnp.bool_ else 8 * values.itemsize
    for element in (0, 1, 63):
        for bit in range(bits):
            raw = bytearray(values.tobytes())
            raw[element * values.itemsize + bit // 8] ^= 1 << bit % 8
            assert int(checksum(jnp.asarray(np.frombuffer(bytes(raw), values.dtype)))) != before
    first = int(np.flatnonzero(values != values[0])[0])
    swapped = values.copy()
    swapped[[0, first]] = swapped[[first, 0]]
    assert int(checksum(jnp.asarray(swapped))) != before


def data_file(checkpoint):
    return max(checkpoint.glob("state/ocdbt.process_0/d/*"), key=lambda p: p.stat().st_size)


def truncated(checkpoint):
    file = data_file(checkpoint)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(checkpoint):
    file = data_file(checkpoint)
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0x10
    file.write_bytes(bytes(content))


def without(name):
    def damage(checkpoint):
        path = checkpoint / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def garbled(name):
    return lambda checkpoint: (checkpoint / name).write_text('{"half a')


DAMAGES = {
    "truncated data": (truncated, "cannot be read"),
    "a flipped bit": (flipped, "changed since it was saved"),
    "no metadata": (without("_CHECKPOINT_METADATA"), "_CHECKPOINT_METADATA is missing"),
    "garbled metadata": (garbled("_CHECKPOINT_METADATA"), "cannot be read"),
    "no description": (without("state/_METADATA"), "cannot be read"),
    "no manifest": (without("state/manifest.ocdbt"), "cannot be read"),
    "no metrics": (without("metrics"), "metrics/metrics is missing"),
    "garbled metrics": (garbled("metrics/metrics"), "cannot be read"),
    "no state": (without("state"), "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_loudly(tmp_path, damage):
    write(tmp_path, [0.1, 0.2])
    harm, words = DAMAGES[damage]
    harm(tmp_path / "checkpoints" / "2")
    reporter = Lines()
    checkpoints = open_at(tmp_path, reporter=reporter)
    restored = checkpoints.restore_latest()
    assert restored is not None and restored.step == 1
    assert_same(restored.state, state_at(1))
    (line,) = reporter.lines
    assert line.startswith("WARNING") and str(tmp_path / "checkpoints" / "2") in line and words in line
    assert (tmp_path / "damaged" / "2").is_dir()
    # The run goes on from there and saves the same step once more.
    checkpoints.save(state_at(2), {"q": 0.2})
    assert checkpoints.restore_chosen().step == 2
    checkpoints.close()


def test_the_guard_of_the_damages_an_unharmed_checkpoint_is_taken(tmp_path):
    write(tmp_path, [0.1, 0.2])
    reporter = Lines()
    restored = open_at(tmp_path, reporter=reporter).restore_latest()
    assert restored is not None and restored.step == 2 and not reporter.lines


def test_a_damaged_best_leaves_the_next_best(tmp_path):
    write(tmp_path, [0.9, 0.2, 0.3], keep_last=3)
    flipped(tmp_path / "checkpoints" / "1")
    reporter = Lines()
    best = open_at(tmp_path, reporter=reporter).restore_chosen()
    assert (best.step, len(reporter.lines)) == (3, 1)


def test_an_old_checkpoint_that_was_half_deleted_is_no_alarm(tmp_path):
    write(tmp_path, [0.1, 0.2])
    without("_CHECKPOINT_METADATA")(tmp_path / "checkpoints" / "1")
    reporter = Lines()
    restored = open_at(tmp_path, reporter=reporter).restore_latest()
    assert restored is not None and restored.step == 2 and steps_in(tmp_path) == [2]
    assert len(reporter.lines) == 1 and "WARNING" not in reporter.lines[0] and "incomplete" in reporter.lines[0]


def test_when_all_are_damaged_there_is_nothing_to_restore_and_nothing_is_deleted(tmp_path):
    write(tmp_path, [0.1, 0.2])
    for step in (1, 2):
        flipped(tmp_path / "checkpoints" / str(step))
    reporter = Lines()
    assert open_at(tmp_path, reporter=reporter).restore_latest() is None
    assert len(reporter.lines) == 2 and sorted(p.name for p in (tmp_path / "damaged").iterdir()) == ["1", "2"]


def test_a_checkpoint_of_another_model_is_an_error_and_stays(tmp_path):
    write(tmp_path, [0.1])
    with pytest.raises(CheckpointError, match=r"float32 \[64\] there and float32 \[48\] in this run"):
        open_at(tmp_path, like=state_at(0, width=48)).restore_latest()
    assert steps_in(tmp_path) == [1]


def test_reading_names_the_steps_that_there_are(tmp_path):
    with pytest.raises(CheckpointError, match="there are none"):
        read_checkpoint(tmp_path)
    write(tmp_path, [0.1, 0.2])
    with pytest.raises(CheckpointError, match="no checkpoint of step 7; there are 1, 2"):
        read_checkpoint(tmp_path / "checkpoints", 7)
