"""Which entries of a configuration are used by the runs that are to be built."""

from makelm.config import Config, Run
from makelm.config_tokenizer import LEARNED


def runs(settings: Config) -> dict[str, Run]:
    """Returns the runs to be built and those that they start from, each after the one it starts from."""
    found = {}
    for name in settings.runs:
        chain = [name]
        while (start := settings.run[chain[-1]].start) and start.run:
            chain.append(start.run)
        found |= {link: settings.run[link] for link in reversed(chain) if link not in found}
    return found


def corpora(settings: Config) -> list[str]:
    """Returns the corpora that the runs to be trained, their tokenizers or the runs' evaluations read."""
    trained = runs(settings).values()
    learned_from = [corpus for run in trained for corpus in learning_corpora(settings, run.tokenizer)]
    scored = [corpus for name in settings.runs for corpus in other_sets(settings.run[name])]
    return list(dict.fromkeys([*(corpus for run in trained for corpus in run.corpora), *learned_from, *scored]))


def learning_corpora(settings: Config, tokenizer: str) -> list[str]:
    """Returns the corpus that a tokenizer is learned from, if it is learned."""
    found = settings.tokenizer[tokenizer]
    return [found.corpus] if isinstance(found, LEARNED) else []


def other_sets(run: Run) -> list[str]:
    """Returns the corpora beside its own whose validation documents a run is scored on."""
    return [corpus for corpus in dict.fromkeys(run.evaluate.sets) if corpus not in run.corpora]


def weights(settings: Config) -> list[str]:
    """Returns the entries of `weights:` that the runs to be trained start from."""
    starts = [run.start for run in runs(settings).values()]
    return list(dict.fromkeys(start.weights for start in starts if start and start.weights))


def tasks(settings: Config) -> list[str]:
    """Returns the tasks that the runs to be built are asked."""
    return list(dict.fromkeys(task for name in settings.runs for task in settings.run[name].tasks))


def named_tokenizers(settings: Config) -> list[str]:
    """Returns the tokenizers of the runs to be trained that are learned from no corpus."""
    used = dict.fromkeys(run.tokenizer for run in runs(settings).values())
    return [tokenizer for tokenizer in used if not learning_corpora(settings, tokenizer)]
