"""Weights in the layouts of Hugging Face: what is written computes what the model does, what is read was written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import export_model
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import random_parameters, shape
from layouts import CASES
from safetensors.numpy import load_file, save_file

from makelm import (
    attention,
    config,
    export,
    hugging_face,
    hugging_face_layouts,
    manifest,
    parity,
    tensor_file,
    tokenizer,
    vocabulary,
    weights,
)
from makelm.config_tokenizer import ByteTokenizer
from makelm.errors import UserError
from makelm.hugging_face_layouts import layout

V = 40
PICODO = {"norm": {"scale": False}, "activation": "gelu_tanh"}
NANOJAXGPT = CASES["nanogpt"][1] | {"activation": "swiglu_layer"}


def trained(model: config.Model) -> weights.Weights:
    return weights.Weights(model, V, V - 1, "digest", random_parameters(model, V))


def write(made: weights.Weights, folder: Path, dtype: str = "float32") -> None:
    """Writes what an import and the reference read of an export."""
    tensor_file.write(folder / "model.safetensors", export.tensors(made), dtype, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(export.model_config(made, dtype, made.end_of_text)))


def edit_config(folder: Path, changes: dict) -> None:
    """Changes keys of a config.json; None removes one."""
    path = folder / "config.json"
    keys = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in keys.items() if value is not None}))


def assert_equal_parameters(folder: hugging_face.Folder, expected: dict) -> None:
    for name, value in expected.items():
        found = folder.parameter(name, value.shape)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, value)


@pytest.fixture
def folder(tmp_path):
    """Returns a function that exports one of CASES and returns its folder and weights."""

    def make(name: str, **changes) -> tuple[Path, weights.Weights]:
        made = trained(shape(**CASES[name][1], **changes))
        write(made, tmp_path)
        return tmp_path, made

    return make


# ---- out


@pytest.mark.parametrize("name", CASES)
def test_exported_files_compute_what_the_model_does_and_give_the_parameters_back(name, folder):
    path, made = folder(name)
    measured = parity.measure(path, made, "float32")
    parity.check(measured)
    assert measured["architecture"] == CASES[name][0]
    assert measured["largest_logit"] > 1
    assert_equal_parameters(hugging_face.Folder(path), made.parameters)


@pytest.mark.parametrize("name", ["gpt2", "gptj", "llama", "qwen3"])
def test_an_export_with_all_that_its_class_has_fits_the_model_it_is_of(name, folder):
    path, made = folder(name)
    hugging_face.Folder(path).check(made.model, V)


def test_what_a_model_lacks_is_one_or_zero_in_the_class(folder):
    path, _ = folder("gpt2_bare")
    found = hugging_face.Folder(path)
    np.testing.assert_array_equal(found.parameter("positions_TD", (16, 16)), np.zeros((16, 16)))
    np.testing.assert_array_equal(found.parameter("blocks.1.mlp_norm.scale", (16,)), np.ones(16))
    np.testing.assert_array_equal(found.parameter("blocks.0.attention.key_bias_KH", (4, 4)), np.zeros((4, 4)))


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        (PICODO, "Qwen3ForCausalLM, the nearest, wants model.activation swiglu or relu_squared (here gelu_tanh)"),
        (NANOJAXGPT, "wants model.activation gelu_tanh or gelu or relu_squared (here swiglu_layer)"),
        ({"logit_soft_cap": 30.0}, "wants model.logit_soft_cap null (here 30.0)"),
        ({"qk_norm": "layernorm"}, "wants model.qk_norm null (here layernorm)"),
        (CASES["gpt2"][1] | {"n_kv_heads": 2}, "GPT2LMHeadModel, the nearest, wants model.n_kv_heads equal to n_heads"),
        (
            CASES["gptj"][1] | {"positions": {"base": 500, "pairs": "interleaved"}},
            "model.positions.base 10000 (here 500.0)",
        ),
    ],
)
def test_a_model_without_a_class_is_told_why_in_one_line(changes, end):
    with pytest.raises(UserError) as caught:
        layout(shape(**changes))
    assert str(caught.value).endswith(end) and "\n" not in str(caught.value)


# ---- the comparison at each export


def swapped(planned: list[tensor_file.Planned]) -> list[tensor_file.Planned]:
    """Returns an export in which two tensors of one shape have changed places."""
    make = {each.name: each.make for each in planned}
    gate, up = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"
    others = {gate: up, up: gate}
    return [tensor_file.Planned(each.name, each.shape, make[others.get(each.name, each.name)]) for each in planned]


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Returns a function that makes a job of stage export_model, with a trained run to read."""

    def make(model: config.Model, dtype: str = "float32") -> SimpleNamespace:
        settings = ByteTokenizer(kind="byte", begin_of_text=False, end_of_text=True)
        encoding, _ = vocabulary.existing(settings)
        monkeypatch.setattr(tokenizer, "load", lambda folder: encoding)
        run, staging, said, published = tmp_path / "run", tmp_path / "staging", [], []
        (run / weights.FILE).parent.mkdir(parents=True)
        staging.mkdir()
        parameters = random_parameters(model, encoding.vocab_size)
        made = weights.Weights(model, encoding.vocab_size, encoding.end_of_text, encoding.digest, parameters)
        weights.save(made, run / weights.FILE)
        content = {"stage": "train_model", "files": manifest.describe_files(run, frozenset())}
        return SimpleNamespace(
            args=SimpleNamespace(model=run, tokenizer=tmp_path),
            config=SimpleNamespace(export=config.Export(dtype=dtype)),
            staging=staging,
            read_input=lambda name, path: content,
            say=said.append,
            said=said,
            publish=lambda facts, measured: published.append((facts, measured)),
            published=published,
        )

    return make


def test_an_export_says_how_near_it_is_and_bfloat16_may_be_further(job):
    made = job(shape(n_layers=1), "bfloat16")
    export_model.export_model(made)
    found = json.loads((made.staging / "parity.json").read_text())
    assert found["dtype"] == "bfloat16" and found["tokens"] == 32
    assert 1e-4 < found["max_logit_difference"] < 1
    assert made.published == [({"architecture": "Qwen3ForCausalLM"}, ("parity.json",))]
    assert made.said[0].startswith("Qwen3ForCausalLM in bfloat16: logits of 32 tokens are within ")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_of_which_its_class_computes_something_else_is_handed_on_as_it_is(dtype, job, monkeypatch):
    made, tensors = job(shape(n_layers=1), dtype), export.tensors
    monkeypatch.setattr(export, "tensors", lambda trained: swapped(tensors(trained)))
    export_model.export_model(made)
    assert made.published == [({"architecture": None}, ("parity.json",))]
    assert weights.load(made.staging / "model.safetensors").model == shape(n_layers=1)
    assert "Qwen3ForCausalLM, which has its keys, computes something else" in made.said[-1]


def test_a_model_with_a_parameter_that_no_class_has_is_handed_on_as_it_is(job, monkeypatch):
    made, load = job(shape(n_layers=1)), weights.open_run

    def with_more(*words) -> weights.Weights:
        found = load(*words)
        more = {"blocks.0.mlp.new_DE": np.zeros((16, 2), np.float32)}
        return replace(found, parameters={name: found.parameters[name] for name in found.parameters} | more)

    monkeypatch.setattr(weights, "open_run", with_more)
    export_model.export_model(made)
    assert made.published == [({"architecture": None}, ("parity.json",))]
    assert "Qwen3ForCausalLM, the nearest, has no place for blocks.0.mlp.new_DE" in made.said[-1]


def test_a_window_longer_than_what_is_compared_is_exported_as_no_class(folder, monkeypatch):
    monkeypatch.setattr(attention, "sees", lambda query, key: (key <= query) & (query - key < 100))
    with pytest.raises(
        UserError, match=r"in each of them a position sees all before it, here attention.sees says which"
    ):
        folder("qwen3", context_length=128)


def test_a_key_that_no_layout_knows_fits_none_unless_it_is_off(monkeypatch):
    def with_window(window: int | None):
        return lambda model: flat(model) | {"window": window}

    flat = hugging_face_layouts.flat
    monkeypatch.setattr(hugging_face_layouts, "flat", with_window(None))
    assert layout(shape()).architecture == "Qwen3ForCausalLM"
    monkeypatch.setattr(hugging_face_layouts, "flat", with_window(64))
    with pytest.raises(UserError, match=r"wants model.window null \(here 64\)$"):
        layout(shape())


def test_a_model_without_a_class_is_handed_on_as_it_is(job):
    made = job(shape(**PICODO))
    export_model.export_model(made)
    own = weights.load(made.staging / "model.safetensors")
    about = json.loads((made.staging / "config.json").read_text())
    assert about["architectures"] is None and "wants model.activation" in about["reason"]
    assert config.Model.model_validate(about["model"]) == own.model
    assert made.published[0][0] == {"architecture": None} and about["reason"] in made.said[0]
    names = {"parity.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert names < {path.name for path in made.staging.iterdir()}
    ends = json.loads((made.staging / "tokenizer_config.json").read_text())
    assert ends["model_max_length"] == own.model.context_length


# ---- in


def test_files_of_the_hub_have_other_names_buffers_and_a_copy_of_the_head(folder):
    path, made = folder("gpt2")
    tensors = load_file(path / "model.safetensors")
    renamed = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    renamed |= {"h.0.attn.bias": np.ones((1, 1, 16, 16), np.float32), "lm_head.weight": renamed["wte.weight"]}
    save_file(renamed, path / "model.safetensors")
    assert_equal_parameters(hugging_face.Folder(path), made.parameters)


def test_a_tied_head_that_differs_is_refused(folder):
    path, made = folder("gpt2")
    tensors = load_file(path / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["transformer.wte.weight"] + 1}, path / "model.safetensors")
    with pytest.raises(UserError, match=r"lm_head.weight and transformer.wte.weight differ, but makelm has one"):
        hugging_face.Folder(path).parameter("embedding_VD", made.parameters["embedding_VD"].shape)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision_and_shards_are_read(dtype, folder):
    path, made = folder("llama")
    tensors = {name: value.astype(dtype) for name, value in load_file(path / "model.safetensors").items()}
    (path / "model.safetensors").unlink()
    halves = {"a.safetensors": sorted(tensors)[::2], "b.safetensors": sorted(tensors)[1::2]}
    for file, names in halves.items():
        save_file({name: tensors[name] for name in names}, path / file)
    index = {"weight_map": {name: file for file, names in halves.items() for name in names}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    rounded = {name: value.astype(dtype).astype(np.float32) for name, value in made.parameters.items()}
    assert_equal_parameters(hugging_face.Folder(path), rounded)
    (path / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no b.safetensors; pickle files"):
        hugging_face.Folder(path)


def test_a_shorter_context_takes_the_first_learned_positions(folder):
    path, made = folder("gpt2")
    found, shorter = hugging_face.Folder(path), shape(**CASES["gpt2"][1], context_length=8)
    found.check(shorter, V)
    np.testing.assert_array_equal(found.parameter("positions_TD", (8, 16)), made.parameters["positions_TD"][:8])
    with pytest.raises(UserError, match=r"model.context_length is 17, the weights have 16 positions"):
        found.check(shape(**CASES["gpt2"][1], context_length=17), V)


def test_rotary_positions_fit_any_context(folder):
    path, _ = folder("llama")
    hugging_face.Folder(path).check(shape(**CASES["llama"][1], context_length=99), V)


def test_what_config_json_leaves_out_follows_from_the_rest_or_is_the_default_of_transformers(folder):
    path, made = folder("gpt2", d_ff=64)
    edit_config(path, dict.fromkeys(("n_inner", "layer_norm_epsilon", "activation_function", "tie_word_embeddings")))
    hugging_face.Folder(path).check(made.model, V)


@pytest.mark.parametrize(
    "said", [{"rope_theta": 500000, "rope_parameters": None}, {"rope_theta": None}, {"rope_scaling": None}]
)
def test_both_spellings_of_the_base_are_read(said, folder):
    path, made = folder("llama")
    edit_config(path, said)
    hugging_face.Folder(path).check(made.model, V)


def test_all_that_differs_is_said_at_once(folder):
    path, _ = folder("gpt2")
    found = hugging_face.Folder(path)
    other = shape(**CASES["gpt2"][1] | {"n_layers": 3, "norm": {"kind": "rmsnorm"}, "vocab_multiple": 1})
    with pytest.raises(UserError) as caught:
        found.check(other, V)
    assert str(caught.value) == (
        f"{path} does not fit: model.n_layers is 3, the weights have 2; model.norm.kind is rmsnorm, the weights have"
        " layernorm; model.norm.bias is false, the weights have true; model.norm.eps is 1e-06, the weights have 1e-05;"
        " the vocabulary has 40 rows (40 tokens, model.vocab_multiple 1), the weights have 48"
    )


@pytest.mark.parametrize(
    ("name", "changes", "line"),
    [
        ("gpt2", {"model_type": "mistral"}, "model_type is mistral; makelm reads gpt2, gptj, llama, qwen3"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "is true; makelm computes false only"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is true"),
        ("gpt2", {"activation_function": "quick_gelu"}, "activation_function is quick_gelu; makelm computes gelu_new"),
        ("gpt2", {"n_layer": "2"}, "n_layer is 2; it should be a positive whole number"),
        ("gpt2", {"n_layer": 1}, "has what makelm does not know: transformer.h.1.attn.c_attn.bias, .* 9 more tensors"),
        ("gpt2", {"n_layer": 3}, "lacks transformer.h.2.attn.c_attn.bias, .* and 9 more tensors"),
        ("gpt2", {"n_inner": 31}, r"c_fc.bias is F32 \[32\]; by config.json it is \[31\] of F32"),
        ("gptj", {"rotary_dim": None}, "rotary_dim is null"),
        ("llama", {"attention_bias": True}, "attention_bias is true"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None}, "not the default ones"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8}}, "not the default ones"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window is true"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types: makelm computes full"),
    ],
)
def test_what_makelm_does_not_compute_is_refused_in_one_line(name, changes, line, folder):
    path, _ = folder(name)
    edit_config(path, changes)
    with pytest.raises(UserError, match=line) as caught:
        hugging_face.Folder(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_gated_relu_is_refused_where_it_is_not_squared_relu(folder):
    path, made = folder("llama")
    edit_config(path, {"hidden_act": "relu"})
    found = hugging_face.Folder(path)
    with pytest.raises(UserError, match=r"mlp.gate_proj.weight and .*mlp.up_proj.weight differ"):
        found.parameter("blocks.1.mlp.up_DF", made.parameters["blocks.1.mlp.up_DF"].shape)


def test_pickles_are_never_loaded_and_damage_is_named(folder):
    path, _ = folder("gpt2")
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[:-4])
    with pytest.raises(UserError, match=r"model.safetensors is damaged"):
        hugging_face.Folder(path)
    shutil.move(path / "model.safetensors", path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no model.safetensors; pickle files .* are never loaded"):
        hugging_face.Folder(path)
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors"}}')
    with pytest.raises(UserError, match="is no index of safetensors files"):
        hugging_face.Folder(path)
    (path / "config.json").write_text("[")
    with pytest.raises(UserError, match=r"config.json is damaged or no JSON object"):
        hugging_face.Folder(path)
