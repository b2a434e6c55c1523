"""Models: from token shards to weights, samples, scores and an export.

REQUIRED INPUTS: results/encode_shard/<corpus>/<tokenizer>/ and results/train_tokenizer/<tokenizer>/; of a run that
                 starts from other weights, results/download_weights/<weights>/ or another results/train_model/<run>/
OUTPUTS: results/plan_run/<run>/plan.json
         results/train_model/<run>/{weights/model.safetensors,metrics.jsonl,summary.json}
         results/sample_model/<run>/samples.{jsonl,html}
         results/evaluate_model/<run>/scores.json
         results/evaluate_task/<run>/<task>/scores.json
         results/export_model/<run>/model.safetensors and what Hugging Face wants beside it
"""


rule plan_run:
    """Says what a run will take, and fails where it cannot fit.

    It comes before training by priority and by the one accelerator, not as an input of it: a plan for another
    mesh is no reason to train again, and behind an ancient() input that is made anew Snakemake would not see
    that training's own keys changed too.
    """
    input:
        script=program("plan_run"),
        code=code("plan_run"),
        tokenizer=lambda wildcards: f"{tokenizer_folder(wildcards.run)}/manifest.json",
    output:
        plan="results/plan_run/{run}/plan.json",
        manifest="results/plan_run/{run}/manifest.json",
    log:
        "logs/plan_run/{run}.log",
    priority: 1
    conda:
        environment
    threads: lambda wildcards: SETTINGS.run[wildcards.run].cores
    resources:
        **asked("plan_run"),
        execution=lambda wildcards: execution("plan_run", wildcards.run),
        accelerator=1,
    params:
        config=lambda wildcards: keys("plan_run", wildcards.run),
        tokenizer=subpath(input.tokenizer, parent=True),
        out=subpath(output.manifest, parent=True),
    shell:
        "{resources.launch} python {input.script:q}"
        " --config {params.config:q}"
        " --execution {resources.execution:q}"
        " --tokenizer {params.tokenizer:q}"
        " --out {params.out:q}"
        " --cores {threads}"
        " --log {log:q}"
        " --stop-with-parent"
        " {resources.further}"


rule train_model:
    """Trains a model on token shards; its checkpoints stand beside the outputs and are none."""
    input:
        script=program("train_model"),
        code=code("train_model"),
        shards=lambda wildcards: shards(wildcards.run, "train-{}.bin", "valid-{}.bin", "{}.json"),
        start=lambda wildcards: start_files(wildcards.run),
    output:
        weights="results/train_model/{run}/weights/model.safetensors",
        metrics="results/train_model/{run}/metrics.jsonl",
        summary="results/train_model/{run}/summary.json",
        manifest="results/train_model/{run}/manifest.json",
    log:
        "logs/train_model/{run}.log",
    conda:
        environment
    threads: lambda wildcards: SETTINGS.run[wildcards.run].cores
    resources:
        **asked("train_model"),
        execution=lambda wildcards: execution("train_model", wildcards.run),
        accelerator=1,
    params:
        config=lambda wildcards: keys("train_model", wildcards.run),
        shards=lambda wildcards: words(shard_folders(wildcards.run)),
        start=lambda wildcards: ["--start", start_folder(wildcards.run)] if SETTINGS.run[wildcards.run].start else [],
        out=subpath(output.manifest, parent=True),
    shell:
        "{resources.launch} python {input.script:q}"
        " --config {params.config:q}"
        " --execution {resources.execution:q}"
        " --shards {params.shards:q}"
        " {params.start:q}"
        " --out {params.out:q}"
        " --cores {threads}"
        " --log {log:q}"
        " --stop-with-parent"
        " {resources.further}"


rule sample_model:
    """Lets the model write."""
    input:
        script=program("sample_model"),
        code=code("sample_model"),
        weights="results/train_model/{run}/weights/model.safetensors",
        model="results/train_model/{run}/manifest.json",
        tokenizer=lambda wildcards: f"{tokenizer_folder(wildcards.run)}/manifest.json",
        prompts=lambda wildcards: PROMPTS[wildcards.run],
        shards=lambda wildcards: prompt_shards(wildcards.run, "valid-{}.bin", "{}.json"),
    output:
        samples="results/sample_model/{run}/samples.jsonl",
        page=report(
            "results/sample_model/{run}/samples.html",
            caption="../report/samples.rst",
            category="Samples",
            labels={"run": "{run}"},
        ),
        manifest="results/sample_model/{run}/manifest.json",
    log:
        "logs/sample_model/{run}.log",
    conda:
        environment
    threads: lambda wildcards: SETTINGS.run[wildcards.run].cores
    resources:
        **asked("sample_model"),
        execution=lambda wildcards: execution("sample_model", wildcards.run),
        accelerator=1,
    params:
        config=lambda wildcards: keys("sample_model", wildcards.run),
        model=subpath(input.model, parent=True),
        tokenizer=subpath(input.tokenizer, parent=True),
        shards=lambda wildcards, input: ["--shards", *words(shard_folders(wildcards.run))] if input.shards else [],
        out=subpath(output.manifest, parent=True),
    shell:
        "{resources.launch} python {input.script:q}"
        " --config {params.config:q}"
        " --execution {resources.execution:q}"
        " --model {params.model:q}"
        " --tokenizer {params.tokenizer:q}"
        " {params.shards:q}"
        " --out {params.out:q}"
        " --cores {threads}"
        " --log {log:q}"
        " --stop-with-parent"
        " {resources.further}"


rule evaluate_model:
    """Scores the model on the validation documents, and on some of the training tokens."""
    input:
        script=program("evaluate_model"),
        code=code("evaluate_model"),
        weights="results/train_model/{run}/weights/model.safetensors",
        model="results/train_model/{run}/manifest.json",
        shards=lambda wildcards: shards(wildcards.run, "train-{}.bin", "valid-{}.bin", "{}.json"),
        corpus=lambda wildcards: [f"{folder}/manifest.json" for folder in corpus_folders(wildcards.run).values()],
        sets=lambda wildcards: set_files(wildcards.run),
    output:
        scores=report(
            "results/evaluate_model/{run}/scores.json",
            caption="../report/scores.rst",
            category="Scores",
            labels={"run": "{run}"},
        ),
        manifest="results/evaluate_model/{run}/manifest.json",
    log:
        "logs/evaluate_model/{run}.log",
    conda:
        environment
    threads: lambda wildcards: SETTINGS.run[wildcards.run].cores
    resources:
        **asked("evaluate_model"),
        execution=lambda wildcards: execution("evaluate_model", wildcards.run),
        accelerator=1,
    params:
        config=lambda wildcards: keys("evaluate_model", wildcards.run),
        model=subpath(input.model, parent=True),
        shards=lambda wildcards: words(shard_folders(wildcards.run)),
        corpus=lambda wildcards: words(corpus_folders(wildcards.run)),
        sets=lambda wildcards: set_words(wildcards.run),
        out=subpath(output.manifest, parent=True),
    shell:
        "{resources.launch} python {input.script:q}"
        " --config {params.config:q}"
        " --execution {resources.execution:q}"
        " --model {params.model:q}"
        " --shards {params.shards:q}"
        " --corpus {params.corpus:q}"
        " {params.sets:q}"
        " --out {params.out:q}"
        " --cores {threads}"
        " --log {log:q}"
        " --stop-with-parent"
        " {resources.further}"


rule evaluate_task:
    """Asks the model the questions of a task."""
    input:
        script=program("evaluate_task"),
        code=code("evaluate_task"),
        weights="results/train_model/{run}/weights/model.safetensors",
        model="results/train_model/{run}/manifest.json",
        tokenizer=lambda wildcards: f"{tokenizer_folder(wildcards.run)}/manifest.json",
        task="results/download_task/{task}/manifest.json",
        corpus=lambda wildcards: [f"{folder}/manifest.json" for folder in corpus_folders(wildcards.run).values()],
    output:
        # beside it answers.jsonl, where the task's logprobs are wanted
        scores=report(
            "results/evaluate_task/{run}/{task}/scores.json",
            caption="../report/task.rst",
            category="Scores",
            labels={"run": "{run}", "task": "{task}"},
        ),
        manifest="results/evaluate_task/{run}/{task}/manifest.json",
    log:
        "logs/evaluate_task/{run}/{task}.log",
    conda:
        environment
    threads: lambda wildcards: SETTINGS.run[wildcards.run].cores
    resources:
        **asked("evaluate_task"),
        execution=lambda wildcards: execution("evaluate_task", wildcards.run),
        accelerator=1,
    params:
        config=lambda wildcards: keys("evaluate_task", wildcards.run, wildcards.task),
        model=subpath(input.model, parent=True),
        tokenizer=subpath(input.tokenizer, parent=True),
        task=subpath(input.task, parent=True),
        corpus=lambda wildcards: words(corpus_folders(wildcards.run)),
        out=subpath(output.manifest, parent=True),
    shell:
        "{resources.launch} python {input.script:q}"
        " --config {params.config:q}"
        " --execution {resources.execution:q}"
        " --model {params.model:q}"
        " --tokenizer {params.tokenizer:q}"
        " --task {params.task:q}"
        " --corpus {params.corpus:q}"
        " --out {params.out:q}"
        " --cores {threads}"
        " --log {log:q}"
        " --stop-with-parent"
        " {resources.further}"


rule export_model:
    """Writes the model as other people's code reads it."""
    input:
        script=program("export_model"),
        code=code("export_model"),
        weights="results/train_model/{run}/weights/model.safetensors",
        model="results/train_model/{run}/manifest.json",
        tokenizer=lambda wildcards: f"{tokenizer_folder(wildcards.run)}/manifest.json",
    output:
        # the tokenizer's files beside these follow from its kind
        weights="results/export_model/{run}/model.safetensors",
        config="results/export_model/{run}/config.json",
        parity="results/export_model/{run}/parity.json",
        manifest="results/export_model/{run}/manifest.json",
    log:
        "logs/export_model/{run}.log",
    conda:
        "../../envs/cpu.yaml"
    resources:
        **asked("export_model"),
    params:
        config=lambda wildcards: keys("export_model", wildcards.run),
        model=subpath(input.model, parent=True),
        tokenizer=subpath(input.tokenizer, parent=True),
        out=subpath(output.manifest, parent=True),
    shell:
        "{resources.launch} python {input.script:q}"
        " --config {params.config:q}"
        " --model {params.model:q}"
        " --tokenizer {params.tokenizer:q}"
        " --out {params.out:q}"
        " --cores {threads}"
        " --log {log:q}"
        " --stop-with-parent"
        " {resources.further}"
