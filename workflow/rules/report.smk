"""What people look at: the report, whether everything is as it should be, and what nobody needs any more.

REQUIRED INPUTS: results/{plan_run,train_model,sample_model,evaluate_model,export_model}/<run>/ of all runs, and of
                 their tasks results/evaluate_task/<run>/<task>/
OUTPUTS: results/write_report/{report.html,runs.csv}
"""


rule write_report:
    """Puts all runs on one page."""
    input:
        script=program("write_report"),
        code=code("write_report"),
        runs=run_manifests(),
    output:
        page=report(
            "results/write_report/report.html",
            caption="../report/report.rst",
            category="All runs",
            labels={"view": "report"},
        ),
        table=report(
            "results/write_report/runs.csv",
            caption="../report/runs.rst",
            category="All runs",
            labels={"view": "table"},
        ),
        manifest="results/write_report/manifest.json",
    log:
        "logs/write_report.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        config=lambda wildcards: keys("write_report", ""),
        results=subpath(output.manifest, ancestor=2),
        out=subpath(output.manifest, parent=True),
    shell:
        "exec python {input.script:q}"
        " --config {params.config:q}"
        " --results {params.results:q}"
        " --out {params.out:q}"
        " --cores {threads}"
        " --log {log:q}"
        " --stop-with-parent"


rule verify:
    """Reads everything that should exist and says what is missing, altered or stale. Makes nothing."""
    input:
        script=program("verify"),
    log:
        "logs/verify.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        config=whole_configuration,
        lock=LOCK_FILE,
        results="results",
    shell:
        "exec python {input.script:q}"
        " --config {params.config:q}"
        " --lock {params.lock:q}"
        " --results {params.results:q}"
        " --log {log:q}"


rule gc:
    """Lists what in results/ no configured run uses; where YES=1 is in the environment, deletes it."""
    input:
        script=program("collect_garbage"),
    log:
        "logs/gc.log",
    conda:
        "../../envs/cpu.yaml"
    params:
        config=whole_configuration,
        lock=LOCK_FILE,
        results="results",
        delete=["--delete"] if os.environ.get("YES") == "1" else [],
    shell:
        "exec python {input.script:q}"
        " --config {params.config:q}"
        " --lock {params.lock:q}"
        " --results {params.results:q}"
        " --log {log:q}"
        " {params.delete:q}"


rule download:
    """Fetches all that needs the network (texts, weights, tasks, vocabularies), so that the rest runs without."""
    input:
        [f"results/download_corpus/{corpus}/manifest.json" for corpus in makelm_used.corpora(SETTINGS)],
        [f"results/download_weights/{weights}/manifest.json" for weights in makelm_used.weights(SETTINGS)],
        [f"results/download_task/{task}/manifest.json" for task in makelm_used.tasks(SETTINGS)],
        [f"results/train_tokenizer/{tokenizer}/manifest.json" for tokenizer in makelm_used.named_tokenizers(SETTINGS)],
