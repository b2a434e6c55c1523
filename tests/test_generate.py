"""The engine: greedy is the full forward pass, rows are their own, slots are refilled, texts end where they should."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from conftest import config, forward, random_parameters, shape

from makelm import at_hand
from makelm.errors import UserError
from makelm.generate import Engine, Options, generate, slot_length
from makelm.model import Skeleton

V, END = 40, 39
MODEL = shape(context_length=32, n_layers=1)
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 13], [14]]
TOKENS = [b"%c" % (ord("A") + number) for number in range(END)] + [b""]
SKELETON, PARAMETERS = Skeleton(MODEL, V), random_parameters(MODEL, V)
GREEDY = Options(max_new_tokens=9, temperature=0)
WARM = replace(GREEDY, temperature=1.0)


def engine(slots: int = 2, skeleton: Skeleton = SKELETON, parameters=PARAMETERS, **how) -> Engine:
    return Engine(skeleton, parameters, TOKENS, END, slots, **{"chunk": 4} | how)


@pytest.fixture(scope="module")
def shared() -> Engine:
    """An engine of two slots that reads two prompts at once, whose functions are compiled once."""
    return engine(readers=2)


def test_greedy_is_the_full_forward_pass_token_for_token(shared):
    lengths = [9, 1, 20, 4, 5]
    options = [replace(GREEDY, max_new_tokens=length, logprobs=2, ends=False) for length in lengths]
    texts = generate(shared, PROMPTS, options)
    whole = [prompt + written.ids for prompt, written in zip(PROMPTS, texts, strict=True)]
    full_BTV = forward(MODEL, V, PARAMETERS, np.array([ids + (28 - len(ids)) * [0] for ids in whole]))
    for prompt, length, written, full_TV in zip(PROMPTS, lengths, texts, full_BTV, strict=True):
        logits_TV = full_TV[len(prompt) - 1 :][:length].astype(np.float64)
        assert logits_TV.argmax(axis=-1).tolist() == written.ids and len(written.ids) == length
        logprobs_TV = logits_TV - np.log(np.exp(logits_TV).sum(-1, keepdims=True))
        np.testing.assert_allclose(written.logprobs, logprobs_TV.max(-1), rtol=1e-4, atol=1e-5)
        others = np.argsort(-logprobs_TV, axis=-1)[:, :2]
        assert [[token for token, _ in each] for each in written.alternatives] == others.tolist()
        assert written.finish_reason == "length" and written.text == "".join(TOKENS[i].decode() for i in written.ids)


def test_more_alternatives_than_there_are_tokens_are_all_tokens(shared):
    (written,) = generate(shared, PROMPTS[:1], [replace(GREEDY, max_new_tokens=1, logprobs=V + 5)])
    assert sorted(token for token, _ in written.alternatives[0]) == list(range(V))


def test_a_text_depends_on_its_options_and_not_on_its_neighbours_or_slot(shared):
    options = [
        replace(WARM, seed=1, top_p=0.8),
        replace(WARM, seed=2, temperature=1.5, max_new_tokens=14),
        replace(WARM, seed=3, top_k=5, repetition_penalty=1.3),
        replace(WARM, seed=4, min_p=0.01, max_new_tokens=3),
        replace(GREEDY, repetition_penalty=1.3),
    ]
    together = generate(shared, PROMPTS, options)
    assert generate(shared, PROMPTS[::-1], options[::-1]) == together[::-1]
    assert generate(shared, PROMPTS[2:3], options[2:3]) == together[2:3]
    other = generate(shared, PROMPTS[:1], [replace(options[0], seed=5)])
    assert other[0].ids != together[0].ids
    assert len({*generate(shared, PROMPTS[4:], [replace(GREEDY, repetition_penalty=9.0)])[0].ids, 14}) == 10


def test_a_text_ends_at_the_end_of_text_token_and_before_stop_strings(shared):
    (whole,) = generate(shared, PROMPTS[:1], [replace(WARM, seed=7, max_new_tokens=20, ends=False)])
    stop = whole.text[5:8]  # over the border of the first chunk
    (cut,) = generate(shared, PROMPTS[:1], [replace(WARM, seed=7, max_new_tokens=20, ends=False, stop=(stop,))])
    place = whole.text.index(stop)
    assert (cut.text, cut.ids, cut.finish_reason) == (whole.text[:place], whole.ids[:place], "stop")
    assert len(cut.logprobs) == len(cut.ids)
    ending = Engine(SKELETON, PARAMETERS, TOKENS, whole.ids[6], 2, chunk=4)
    (ended,) = generate(ending, PROMPTS[:1], [replace(WARM, seed=7, max_new_tokens=20)])
    place = whole.ids.index(whole.ids[6])
    assert (ended.ids, ended.finish_reason) == (whole.ids[:place], "end_of_text")


def test_slots_are_refilled_while_others_go_on_and_can_be_left(shared):
    long, short = (shared.admit(PROMPTS[0], replace(GREEDY, max_new_tokens=count)) for count in (12, 2))
    first = {piece.slot: piece for piece in shared.step()}
    assert first[short].finish_reason == "length" and first[long].finish_reason is None
    assert shared.free == [short]
    assert shared.admit(PROMPTS[2], GREEDY) == short and shared.free == []
    ids = first[long].ids + [token for _ in range(2) for p in shared.step() if p.slot == long for token in p.ids]
    assert ids == generate(engine(1), PROMPTS[:1], [replace(GREEDY, max_new_tokens=12)])[0].ids
    shared.release(short)
    assert shared.free == [0, 1] and shared.step() == []


LONG = [*PROMPTS, [number % END for number in range(25)], [7] * 40, [8, END, 9], [END], list(range(17))]


@pytest.fixture(scope="module", params=["plain", "masked", "slides"])
def reading(request) -> Engine:
    """An engine that reads four prompts at once, of several models."""
    model = shape(
        n_layers=2,  # what the first one keeps depends on no other position
        context_length=8 if request.param == "slides" else 32,
        mask_documents=request.param == "masked",
    )
    return engine(4, Skeleton(model, V, END), random_parameters(model, V), readers=4)


def test_no_bit_of_a_text_depends_on_what_is_read_with_it(reading):
    options = [replace(WARM if n % 2 else GREEDY, seed=n, max_new_tokens=3 + n) for n in range(len(LONG))]
    together = generate(reading, LONG, options)
    assert generate(reading, LONG[::-1], options[::-1]) == together[::-1]
    assert [generate(reading, [prompt], [chosen])[0] for prompt, chosen in zip(LONG, options, strict=True)] == together


def test_a_reading_leaves_the_other_slots_as_they_are(reading):
    def others(taken: int) -> list[np.ndarray]:
        held = jax.device_get((reading.cache, reading.rows))
        return [np.delete(x, taken, axis=0) for x in jax.tree.leaves(held)]

    first = reading.admit_all([(prompt, GREEDY) for prompt in LONG[:3]])
    reading.step()
    reading.release(first[1])
    before = others(first[1])
    assert reading.admit(LONG[5], GREEDY) == first[1]  # one prompt in a reading of four
    for x, y in zip(before, others(first[1]), strict=True):
        np.testing.assert_array_equal(x, y)
    for slot in first:
        reading.release(slot)


def test_a_wrong_prompt_among_several_takes_no_slot(shared):
    with pytest.raises(UserError, match="at least one token"):
        shared.admit_all([([1], GREEDY), ([], GREEDY)])
    assert shared.free == [0, 1]


def test_prompts_of_like_lengths_are_read_together_and_a_reading_waits_until_half_of_it_is_used(monkeypatch):
    read, used = Engine.read, []
    monkeypatch.setattr(
        Engine, "read", lambda self, length, texts: (used.append(len(texts)), read(self, length, texts))
    )
    options = [replace(GREEDY, ends=False, max_new_tokens=1 + 4 * n) for n in range(8)]
    generate(engine(4, readers=4), [[1] * (3 + 20 * (n % 2)) for n in range(8)], options)
    assert used == [4, 2, 2]


def test_what_was_read_and_written_is_counted_and_compiling_is_not():
    fresh, options = engine(4, readers=2), [replace(GREEDY, ends=False)] * 5
    generate(fresh, PROMPTS, options)
    read, compiling = fresh.speed.read, fresh.speed.compiling
    generate(fresh, PROMPTS, options)
    assert fresh.speed.read == read + sum(len(prompt) - 1 for prompt in PROMPTS) and fresh.speed.compiling == compiling
    assert fresh.speed.written >= 5 * 9 and min(fresh.speed.reading, fresh.speed.writing, compiling) > 0


def test_options_and_lengths_compile_nothing_anew(shared):
    generate(shared, PROMPTS[:2], [WARM, WARM])
    before = len(shared.compiled)
    generate(shared, PROMPTS, [replace(WARM, seed=n, temperature=0.5 + n, max_new_tokens=5 + n) for n in range(5)])
    assert len(shared.compiled) == before


def test_rotary_positions_slide_and_learned_ones_end():
    model = shape(context_length=8, n_layers=1)
    sliding = engine(skeleton=Skeleton(model, V), parameters=random_parameters(model, V))
    prompt = list(range(1, 12))
    (written,) = generate(sliding, [prompt], [replace(GREEDY, max_new_tokens=20, ends=False)])
    ids = prompt + written.ids
    # one layer sees no further than its context
    windows_BT = np.array([ids[end - 8 : end] for end in range(len(prompt), len(ids))])
    logits_BTV = forward(model, V, random_parameters(model, V), windows_BT)
    assert logits_BTV[:, -1].argmax(axis=-1).tolist() == written.ids
    learned = shape(context_length=8, n_layers=1, positions={"kind": "learned"})
    ending = engine(skeleton=Skeleton(learned, V), parameters=random_parameters(learned, V))
    assert len(generate(ending, [[1, 2]], [replace(GREEDY, max_new_tokens=6, ends=False)])[0].ids) == 6
    with pytest.raises(UserError, match="2 tokens and 7 new ones are more than the 8 positions this model has learned"):
        generate(ending, [[1, 2]], [replace(GREEDY, max_new_tokens=7)])
    with pytest.raises(UserError, match="needs at least one token"):
        generate(ending, [[]], [GREEDY])


@pytest.mark.parametrize("readers", [1, 5])
def test_a_mesh_writes_the_same(readers):
    model = shape(vocab_multiple=4, n_layers=1, positions={"kind": "rope"})
    parameters = random_parameters(model, V)
    options = [replace(WARM, seed=n, top_p=0.9) for n in range(5)]
    expected = generate(engine(4, Skeleton(model, V), parameters), PROMPTS, options)
    mesh = at_hand.make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
    shared = engine(5, Skeleton(model, V, mesh=mesh), at_hand.place(parameters, mesh), readers=readers)
    assert len(shared.slots) == 8 and shared.readers == (4 if readers == 1 else 8)  # four groups share them
    found = generate(shared, PROMPTS, options)
    assert [each.ids for each in found] == [each.ids for each in expected]
    assert generate(shared, PROMPTS[::-1], options[::-1]) == found[::-1]


def test_weights_that_are_no_numbers_are_an_error():
    broken = PARAMETERS | {"final_norm.scale": np.full_like(PARAMETERS["final_norm.scale"], np.nan)}
    with pytest.raises(UserError, match="not finite"):
        generate(engine(parameters=broken), PROMPTS[:1], [GREEDY])


def test_slots_are_as_long_as_texts_need_and_of_few_sizes():
    assert slot_length([[1] * 9], [GREEDY], 1024) == 128
    assert slot_length([[1] * 200], [GREEDY], 1024) == 256
    assert slot_length([[1] * 2000], [GREEDY], 1024) == 1024
