"""What stage sample_model writes of a text, and on which devices; the whole stage runs in test_workflow.py."""

from conftest import random_parameters, shape
from sample_model import describe, make_engine, parses
from test_prompts import END, encoding

from makelm import at_hand, config, generate, weights
from makelm.generate import Options, Written
from makelm.prompts import Prompt


def test_a_line_has_all_that_was_asked_and_written():
    ids = encoding.encode("é = 1\nx")
    logprobs, others = [-0.5] * len(ids), [((97, -0.123456789),)] * len(ids)
    options = Options(max_new_tokens=9, temperature=0.5, top_k=3, seed=4, stop=("xy",), logprobs=1)
    line = describe(
        encoding, 2, Prompt("a = 0\n", [1]), options, Written(ids, "é = 1\n", logprobs, others, "stop"), "python"
    )
    assert line["options"] == {
        "max_new_tokens": 9,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": None,
        "min_p": None,
        "repetition_penalty": None,
        "stop": ["xy"],
    }
    assert (line["index"], line["prompt"], line["seed"], line["finish_reason"]) == (2, "a = 0\n", 4, "stop")
    assert line["tokens"] == ids and line["parses"] is True
    assert line["alternatives"][0] == [[97, -0.12346]] and len(line["logprobs"]) == len(ids)
    # a character of two tokens is the second's, what a stop string cut off is nobody's
    assert line["pieces"] == ["", "é", " ", "=", " ", "1", "\n", ""]


def test_what_was_cut_is_python_up_to_its_last_statement():
    assert parses("x = 1\ny = (", complete=False) and not parses("x = 1\ny = (", complete=True)


def test_samples_on_a_mesh_are_those_of_one_device_and_none_has_all_of_what_writes():
    model, size = shape(vocab_multiple=2, n_layers=1), encoding.vocab_size
    trained = weights.Weights(model, size, END, encoding.digest, random_parameters(model, size))
    asked = [Prompt(text, [END, *encoding.encode(text)]) for text in ("a = 1\n", "b", "def f(x):\n    ")]
    options = [Options(max_new_tokens=4, temperature=0)] * 3

    def engine(**axes: int) -> generate.Engine:
        return make_engine(trained, encoding, asked, options, at_hand.make_mesh(config.Mesh(**axes)))

    spread, one = engine(data=2, fsdp=2, tensor=2), engine(data=1, fsdp=1, tensor=1)
    found, expected = (generate.generate(each, [prompt.ids for prompt in asked], options) for each in (spread, one))
    assert [each.ids for each in found] == [each.ids for each in expected]
    whole = {"embedding_VD": 4, "unembedding_VD": 4}  # along fsdp too; what is in blocks is gathered along that
    for name, array in spread.parameters.items():
        parts = whole.get(name, 2 if array.ndim > 1 else 1)
        assert {shard.data.size for shard in array.addressable_shards} == {array.size // parts}, name
    for array in spread.cache.keys_BKSH + spread.cache.values_BKSH:  # rows of four groups, heads of two devices
        assert {shard.data.size for shard in array.addressable_shards} == {array.size // 8}
