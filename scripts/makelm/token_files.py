"""Token ids that others made: brought here file by file, verified, and linked instead of copied."""

from pathlib import Path, PurePosixPath

from makelm import fetching, hub, links, token_header
from makelm.config_corpus import TokensCorpus, is_address
from makelm.errors import UserError
from makelm.manifest import file_sha256
from makelm.progress import Progress


def gather(corpus: TokensCorpus, folder: Path, downloads: Path, progress: Progress) -> dict:
    """Makes each file a shard in `folder`, and returns what a manifest says of them.

    Of a part with fewer files than the other, the last shards are empty. Raises UserError where a file is not what the
    configuration says.
    """
    if corpus.repository:
        found, commit = from_hub(corpus, progress)
    else:
        found, commit = from_paths(corpus, downloads, progress), None
    facts = {"num_shards": corpus.shards, "headerless": corpus.dtype}
    for part, names in {"train": corpus.train, "valid": corpus.valid}.items():
        tokens = 0
        for number in range(corpus.shards):
            target = folder / token_header.shard_name(part, number)
            if number < len(names):
                tokens += checked(found[names[number]], names[number], corpus)
                take(found[names[number]], target, progress)
            else:
                target.write_bytes(b"" if corpus.dtype else token_header.header("uint16", 0))
        if not tokens:
            raise UserError(f"corpus.{part}: there are no tokens in these files")
        facts[part] = {"tokens": tokens}
    names = {part: [PurePosixPath(name).name for name in getattr(corpus, part)] for part in ("train", "valid")}
    # nobody knows their text before a tokenizer is named, so there is nothing to compress
    baselines = {"xz_bits_per_byte": None, "xz_after_train_bits_per_byte": None}
    return facts | {"source": names | ({"commit": commit} if commit else {})} | baselines


def from_paths(corpus: TokensCorpus, downloads: Path, progress: Progress) -> dict[str, Path]:
    """Returns name -> file of those of this machine and of the network."""
    fetching.keep_only(downloads, (corpus.sha256[name] for name in corpus.files if is_address(name)))

    def bring(name: str) -> Path:
        if is_address(name):
            return fetching.fetch(name, corpus.sha256[name], downloads, progress)
        return local(name, corpus)

    return {name: bring(name) for name in corpus.files}


def local(name: str, corpus: TokensCorpus) -> Path:
    """Returns a file of this machine. Raises UserError where it is missing or another one than stated."""
    path = Path(name)
    if not path.is_file():
        raise UserError(f"corpus: no such file: {path}")
    check_sum(path, name, corpus)
    return path


def check_sum(path: Path, name: str, corpus: TokensCorpus) -> None:
    """Raises UserError where a file is not the one whose sha256 is stated."""
    if name in corpus.sha256 and (found := file_sha256(path)) != corpus.sha256[name]:
        raise UserError(f"corpus.sha256: {name} has {found}, not {corpus.sha256[name]}")


def from_hub(corpus: TokensCorpus, progress: Progress) -> tuple[dict[str, Path], str]:
    """Returns name -> file in the hub's cache (HF_HOME), and the commit that they are of."""
    found, commit = {}, corpus.revision
    with progress.track(len(corpus.files), "files") as bar:
        for name in corpus.files:
            # after the first one they are of its commit, whatever is pushed meanwhile
            found[name], commit = hub.fetch("corpus", corpus.repository, commit, name, "dataset")
            check_sum(found[name], name, corpus)
            bar.advance(1)
    return found, commit


def checked(path: Path, name: str, corpus: TokensCorpus) -> int:
    """Returns how many ids are in a file. Raises UserError where it is not what the configuration says."""
    try:
        count = token_header.layout(path, corpus.dtype).count
    except token_header.NotTokens as error:
        advice = "" if corpus.dtype else "; for ids without a header, as nanoGPT writes them, set dtype: uint16"
        raise UserError(f"corpus: {name} {error}{advice}") from None
    if corpus.dtype and has_header(path):
        raise UserError(f"corpus.dtype: {name} has a header, which says the type; set dtype: null")
    return count


def has_header(path: Path) -> bool:
    """Returns whether a file is one with a header, to the byte."""
    try:
        token_header.layout(path, None)
    except token_header.NotTokens:
        return False
    return True


def take(path: Path, target: Path, progress: Progress) -> None:
    """Makes a file a shard."""
    if not links.link_or_copy(path, target):
        progress.say(f"{path.name}: copied, since it cannot be linked to from here")
