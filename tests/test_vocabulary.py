"""What a tokenizer learns: the same each time, no more than the text supports, cut by its pattern."""

import pytest
from vocabularies import TEXTS, settings, train

from makelm.errors import UserError


def test_training_is_deterministic_whatever_the_order_of_equal_counts():
    first, second = (train(settings(), TEXTS) for _ in range(2))
    assert first.ranks == second.ranks and first.digest == second.digest
    assert list(first.ranks) != [] and first.vocab_size == 300


def test_a_vocabulary_larger_than_the_corpus_supports_is_refused_with_the_number():
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size: the training documents support (\d+) tokens") as error:
        train(settings(vocab_size=5000), TEXTS)
    most = int(str(error.value).split("support ")[1].split(" ")[0])
    assert train(settings(vocab_size=most), TEXTS).vocab_size == most
    with pytest.raises(UserError):
        train(settings(vocab_size=most + 1), TEXTS)


def test_a_pattern_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"tokenizer\.pattern: "):
        train(settings(pattern=r"\p{L}+|("), TEXTS)
    with pytest.raises(UserError, match=r"tokenizer\.pattern: "):  # Oniguruma knows \h, Rust does not
        train(settings(pattern=r"\p{Nonsense}|\h"), TEXTS)


def test_a_pattern_that_leaves_text_out_is_refused():
    made = train(settings(vocab_size=260, pattern=r"\p{L}+"), TEXTS)
    with pytest.raises(
        UserError, match=r"tokenizer\.pattern: it does not match all of the text that begins with 'two words'"
    ):
        made.encode("two words")


def test_very_long_runs_are_learned_from_and_encoded_in_time():
    run = "".join(chr(97 + number * number % 26) for number in range(200_000))
    made = train(settings(), [run, " " * 200_000, *TEXTS])
    assert made.decode(made.encode(run)) == run


def test_a_run_too_long_for_the_pattern_is_an_error_that_shows_the_text():
    made = train(settings(pattern=r"\S+|\s+(?!\S)|\s+"), TEXTS)
    with pytest.raises(UserError, match=r"tokenizer\.pattern: it cannot cut the text that begins with 'start {10}"):
        made.encode("start" + " " * 2_000_000)


def test_no_token_crosses_the_pieces_of_the_pattern():
    made = train(settings(vocab_size=267), ["the cat the cat the cat 1234567"] * 9)
    assert not any(b" " in token[1:] for token in made.ranks)
    assert max(len(token) for token in made.ranks if token.isdigit()) == 3
