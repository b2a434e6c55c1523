"""What the rules have in common: the typed configuration and, for each stage, its program, its code and its keys."""

import functools
import json
import os
import pathlib
import re
import sys

SCRIPTS = os.path.relpath(os.path.join(workflow.basedir, "scripts"))
sys.path.insert(0, os.path.abspath(SCRIPTS))
os.environ.update(
    # stages run with the Python that runs Snakemake, unless a conda environment or container brings another
    PATH=os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", ""),
    # what XLA compiled once; a folder of the user's own, one for all projects, does as well
    JAX_COMPILATION_CACHE_DIR=os.environ.get("JAX_COMPILATION_CACHE_DIR", ".snakemake/compiled"),
)

import makelm.arguments as makelm_arguments
import makelm.artifacts as makelm_artifacts
import makelm.closure as makelm_closure
import makelm.cluster as makelm_cluster
import makelm.configfile as makelm_configfile
import makelm.errors as makelm_errors
import makelm.malloc as makelm_malloc
import makelm.manifest as makelm_manifest
import makelm.source_files as makelm_source_files
import makelm.stages as makelm_stages
import makelm.used as makelm_used
import makelm.whole as makelm_whole

os.environ.setdefault(makelm_malloc.VARIABLE, makelm_malloc.TUNABLES)

RAW = dict(config)
# of keys that are too long for a command line; jobs of a cluster see it too, as all that Snakemake keeps
LONG_KEYS = pathlib.Path(".snakemake/keys")
NAMED_RUN = os.environ.get("MAKELM_RUN")  # by the targets of make that are of one run
LOCK_FILE = os.path.relpath(os.path.join(workflow.basedir, "uv.lock"))
with open(LOCK_FILE) as lock_file:
    LOCK = lock_file.read()

try:
    if workflow.is_main_process:
        for path in workflow.configfiles:
            # what Snakemake itself does not mind, such as a section that stands there twice
            makelm_configfile.read(pathlib.Path(path))
        if (cores := workflow.resource_settings.cores) is not None and cores < 1:
            raise makelm_errors.UserError(f"--cores must be 1 or more, got {cores}; with none no job would ever start")
    SETTINGS = makelm_configfile.load(RAW)
    SOURCES = makelm_source_files.of_corpora(SETTINGS)
    WEIGHTS = makelm_source_files.of_weights(SETTINGS)
    TOKENIZERS = makelm_source_files.of_tokenizers(SETTINGS)
    PROMPTS = makelm_source_files.of_prompts(SETTINGS)
    TASKS = makelm_source_files.of_tasks(SETTINGS)
    makelm_cluster.check(SETTINGS)
    if NAMED_RUN is not None:
        makelm_configfile.known("RUN", "run", NAMED_RUN, SETTINGS.run)
    if workflow.is_main_process:
        makelm_cluster.check_start(SETTINGS, submits=workflow.resource_settings.nodes is not None)
    for stage in makelm_stages.STAGES:
        makelm_stages.packages(stage, LOCK)  # also reads all code, so that a slip in it is found here
except makelm_errors.UserError as error:
    # one line instead of Snakemake's frame around an exception
    print(error, file=sys.stderr, flush=True)
    os._exit(makelm_errors.USER)


if workflow.is_main_process and (wanted := os.environ.get(makelm_whole.UNTRUE)):
    untrue = dict(makelm_whole.untrue("results"))
    configured = makelm_artifacts.artifacts(SETTINGS, LOCK) if untrue else ()
    for place in sorted({f"results/{artifact.manifest}" for artifact in configured} & untrue.keys()):
        if wanted == "forget":
            os.remove(place)
        print(f"{untrue[place]}; made again where it is needed", flush=True)


wildcard_constraints:
    corpus="|".join(map(re.escape, SETTINGS.corpus)),
    tokenizer="|".join(map(re.escape, SETTINGS.tokenizer)),
    run="|".join(map(re.escape, SETTINGS.run)),
    shard=r"\d{5}",
    task="|".join(map(re.escape, SETTINGS.task)) or "(?!)",
    # no entry, no name: an empty pattern would stand for any name
    weights="|".join(map(re.escape, SETTINGS.weights)) or "(?!)",


def run_manifests():
    """Returns the manifests of all stages of the runs that are built."""
    return [f"results/{place}" for run in SETTINGS.runs for place in makelm_artifacts.reported_manifests(SETTINGS, run)]


def program(stage):
    """Returns the path of a stage's program."""
    return f"{SCRIPTS}/{stage}.py"


def whole_configuration(wildcards):
    """Returns the whole configuration as JSON, in its own order: a grid's runs are named in the order of its keys.

    A function of wildcards, since Snakemake would take {braces} of a plain text, say in a prompt, for some.
    """
    return word(json.dumps(RAW, ensure_ascii=False))


def code(stage):
    """Returns the library files that a stage's program imports; Snakemake compares small inputs by content."""
    paths = [os.path.relpath(path) for path in makelm_closure.closure(stage).files]
    return [path for path in paths if path != program(stage)]


def code_digest(stage):
    """Returns what stands for all of a stage's code in a parameter: each input of each job takes its time to plan."""
    return makelm_closure.closure(stage).digest()


def word(text):
    """Returns what stands for a JSON text in a command: itself, or where it is long a file named by its sha256."""
    return makelm_arguments.word(text, LONG_KEYS)


# cached: thousands of shards have the same
@functools.cache
def keys(stage, name, task=None):
    """Returns a stage's result keys for a corpus, tokenizer or run, as the one text that Snakemake compares."""
    return word(makelm_manifest.canonical(makelm_stages.keys(stage, SETTINGS, name, LOCK, task)[0]))


@functools.cache
def execution(stage, name):
    """Returns a stage's execution keys; they stand in resources:, which Snakemake does not compare."""
    return word(makelm_manifest.canonical(makelm_stages.keys(stage, SETTINGS, name, LOCK)[1]))


def asked(stage):
    """Returns the resources of a stage's jobs: how they are started and, on a cluster, what its scheduler is asked for."""

    @functools.cache
    def request(run, threads, attempt):
        return makelm_cluster.request(SETTINGS, stage, run, threads, attempt)

    def of(key):
        return lambda wildcards, threads, attempt: request(wildcards.get("run"), threads, attempt)[key]

    return {key: of(key) for key in makelm_cluster.keys(SETTINGS)}


def environment(wildcards):
    """Returns the conda environment of a stage that computes on a run's devices."""
    return f"../../envs/{SETTINGS.run[wildcards.run].hardware.packages}.yaml"


def shards(run, *patterns):
    """Returns the files of a run's token shards, {} in the patterns standing for the shard's name."""
    return [
        f"{folder}/{pattern.format(name)}"
        for corpus, folder in shard_folders(run).items()
        for pattern in patterns
        for name in makelm_artifacts.shard_names(SETTINGS, corpus)
    ]


def prompt_shards(run, *patterns):
    """Returns the files of a run's token shards, where its samples are to begin as validation documents do."""
    return shards(run, *patterns) if makelm_artifacts.asks_documents(SETTINGS.run[run]) else []


def shard_folders(run):
    """Returns where a run's token shards stand, by corpus."""
    tokenizer = SETTINGS.run[run].tokenizer
    return {corpus: f"results/encode_shard/{corpus}/{tokenizer}" for corpus in SETTINGS.run[run].corpora}


def corpus_folders(run):
    """Returns where a run's documents stand, by corpus."""
    return {corpus: f"results/download_corpus/{corpus}" for corpus in SETTINGS.run[run].corpora}


def set_folders(run, stage):
    """Returns where the other corpora that a run is scored on stand, by corpus: their shards or their documents."""
    below = [SETTINGS.run[run].tokenizer] if stage == "encode_shard" else []
    others = makelm_used.other_sets(SETTINGS.run[run])
    return {corpus: os.path.join("results", stage, corpus, *below) for corpus in others}


def set_files(run):
    """Returns the files of the other corpora that a run is scored on."""
    corpora = [f"{folder}/manifest.json" for folder in set_folders(run, "download_corpus").values()]
    return corpora + [
        f"{folder}/{pattern.format(name)}"
        for corpus, folder in set_folders(run, "encode_shard").items()
        for pattern in ("valid-{}.bin", "{}.json")
        for name in makelm_artifacts.shard_names(SETTINGS, corpus)
    ]


def set_words(run):
    """Returns what tells evaluate_model of the other corpora that a run is scored on."""
    of = {"--set-shards": set_folders(run, "encode_shard"), "--set-corpus": set_folders(run, "download_corpus")}
    given = {option: [f"{name}={folder}" for name, folder in folders.items()] for option, folders in of.items()}
    return [word for option, each in given.items() if each for word in (option, *each)]


def words(folders):
    """Returns folders by corpus as a stage's words: one alone needs no name."""
    return [f"{name}={folder}" for name, folder in folders.items()] if len(folders) > 1 else [*folders.values()]


def start_folder(run):
    """Returns where the weights that a run starts from stand."""
    return f"results/{makelm_artifacts.start_folder(SETTINGS.run[run])}"


def start_files(run):
    """Returns the files of the weights that a run starts from; a manifest stands for those that it lists."""
    start = SETTINGS.run[run].start
    if not start:
        return []
    folder = start_folder(run)
    return [f"{folder}/manifest.json"] + ([f"{folder}/weights/model.safetensors"] if start.run else [])


def learning_files(tokenizer):
    """Returns the manifest of the corpus that a tokenizer is learned from, if it is learned."""
    corpora = makelm_used.learning_corpora(SETTINGS, tokenizer)
    return [f"results/download_corpus/{corpus}/manifest.json" for corpus in corpora]


def tokenizer_folder(run):
    """Returns where a run's tokenizer stands."""
    return f"results/train_tokenizer/{SETTINGS.run[run].tokenizer}"
