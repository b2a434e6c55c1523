"""Data: from text to token shards; the weights of other people, and their tasks.

REQUIRED INPUTS: what `corpus:`, `weights:` and `task:` name (files of this machine, or the network)
OUTPUTS: results/download_corpus/<corpus>/manifest.json and the document or token shards it lists
         results/download_weights/<weights>/manifest.json and the model's files it lists
         results/download_task/<task>/manifest.json and the questions it lists
         results/train_tokenizer/<tokenizer>/metadata.json and the vocabulary it names
         results/encode_shard/<corpus>/<tokenizer>/{train,valid}-<shard>.bin
"""


rule download_corpus:
    """Gathers documents and divides them into train and validation shards."""
    input:
        script=program("download_corpus"),
        code=code("download_corpus"),
        sources=lambda wildcards: SOURCES.get(wildcards.corpus, []),
    output:
        # the shards themselves are as many as the corpus says, which no output can express
        manifest="results/download_corpus/{corpus}/manifest.json",
    log:
        "logs/download_corpus/{corpus}.log",
    conda:
        "../../envs/cpu.yaml"
    threads: 2
    resources:
        **asked("download_corpus"),
        execution=lambda wildcards: execution("download_corpus", wildcards.corpus),
    params:
        config=lambda wildcards: keys("download_corpus", wildcards.corpus),
        out=subpath(output.manifest, parent=True),
    shell:
        "{resources.launch} python {input.script:q}"
        " --config {params.config:q}"
        " --execution {resources.execution:q}"
        " --out {params.out:q}"
        " --cores {threads}"
        " --log {log:q}"
        " --stop-with-parent"
        " {resources.further}"


rule download_weights:
    """Brings other people's weights here, for a run to start from."""
    input:
        script=program("download_weights"),
        code=code("download_weights"),
        sources=lambda wildcards: WEIGHTS.get(wildcards.weights, []),
    output:
        # how many files a model has, and how they are called, is the model's own affair
        manifest="results/download_weights/{weights}/manifest.json",
    log:
        "logs/download_weights/{weights}.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        **asked("download_weights"),
    params:
        config=lambda wildcards: keys("download_weights", wildcards.weights),
        out=subpath(output.manifest, parent=True),
    shell:
        "{resources.launch} python {input.script:q}"
        " --config {params.config:q}"
        " --out {params.out:q}"
        " --cores {threads}"
        " --log {log:q}"
        " --stop-with-parent"
        " {resources.further}"


rule download_task:
    """Brings a task's questions here."""
    input:
        script=program("download_task"),
        code=code("download_task"),
        sources=lambda wildcards: TASKS.get(wildcards.task, []),
    output:
        # which files a task has is its own affair
        manifest="results/download_task/{task}/manifest.json",
    log:
        "logs/download_task/{task}.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        **asked("download_task"),
    params:
        config=lambda wildcards: keys("download_task", wildcards.task),
        out=subpath(output.manifest, parent=True),
    shell:
        "{resources.launch} python {input.script:q}"
        " --config {params.config:q}"
        " --out {params.out:q}"
        " --cores {threads}"
        " --log {log:q}"
        " --stop-with-parent"
        " {resources.further}"


rule train_tokenizer:
    """Learns a vocabulary from a corpus's training documents, or takes one by its name or file."""
    input:
        script=program("train_tokenizer"),
        code=code("train_tokenizer"),
        corpus=lambda wildcards: learning_files(wildcards.tokenizer),
        sources=lambda wildcards: TOKENIZERS.get(wildcards.tokenizer, []),
    output:
        # the vocabulary beside these has another name for each kind
        metadata="results/train_tokenizer/{tokenizer}/metadata.json",
        manifest="results/train_tokenizer/{tokenizer}/manifest.json",
    log:
        "logs/train_tokenizer/{tokenizer}.log",
    conda:
        "../../envs/cpu.yaml"
    threads: 2
    resources:
        **asked("train_tokenizer"),
        execution=lambda wildcards: execution("train_tokenizer", wildcards.tokenizer),
    params:
        config=lambda wildcards: keys("train_tokenizer", wildcards.tokenizer),
        corpus=lambda wildcards, input: ["--corpus", os.path.dirname(input.corpus[0])] if input.corpus else [],
        out=subpath(output.manifest, parent=True),
    shell:
        "{resources.launch} python {input.script:q}"
        " --config {params.config:q}"
        " --execution {resources.execution:q}"
        " {params.corpus:q}"
        " --out {params.out:q}"
        " --cores {threads}"
        " --log {log:q}"
        " --stop-with-parent"
        " {resources.further}"


rule tokenizer:
    """The tokenizer of the run that MAKELM_RUN in the environment names; `make tokenizer RUN=...` sets it."""
    input:
        lambda wildcards: f"{tokenizer_folder(NAMED_RUN)}/manifest.json",


rule encode_shard:
    """Writes one document shard as token ids."""
    input:
        script=program("encode_shard"),
        corpus="results/download_corpus/{corpus}/manifest.json",
        tokenizer="results/train_tokenizer/{tokenizer}/manifest.json",
        metadata="results/train_tokenizer/{tokenizer}/metadata.json",
    output:
        train="results/encode_shard/{corpus}/{tokenizer}/train-{shard}.bin",
        valid="results/encode_shard/{corpus}/{tokenizer}/valid-{shard}.bin",
        manifest="results/encode_shard/{corpus}/{tokenizer}/{shard}.json",
    log:
        "logs/encode_shard/{corpus}/{tokenizer}/{shard}.log",
    conda:
        "../../envs/cpu.yaml"
    # where there are fewer shards than cores, each gets several
    threads: lambda wildcards: max(1, (workflow.resource_settings.cores or 1) // SETTINGS.corpus[wildcards.corpus].shards)
    resources:
        **asked("encode_shard"),
        shard=1,  # so that a profile can say how many of those in one job run at the same time
        execution=lambda wildcards: execution("encode_shard", wildcards.tokenizer),
    params:
        config=lambda wildcards: keys("encode_shard", wildcards.tokenizer),
        code=code_digest("encode_shard"),
        corpus=subpath(input.corpus, parent=True),
        tokenizer=subpath(input.tokenizer, parent=True),
        out=subpath(output.manifest, parent=True),
    shell:
        "{resources.launch} python {input.script:q}"
        " --config {params.config:q}"
        " --execution {resources.execution:q}"
        " --corpus {params.corpus:q}"
        " --tokenizer {params.tokenizer:q}"
        " --shard {wildcards.shard}"
        " --out {params.out:q}"
        " --cores {threads}"
        " --log {log:q}"
        " --stop-with-parent"
        " {resources.further}"
