"""makelm: a language model out of text.

    download_corpus -> train_tokenizer -> encode_shard -> plan_run -> train_model
                    -> sample_model, evaluate_model, export_model -> write_report

    download_weights -> train_model, of a run that starts from other people's weights
    download_task -> evaluate_task, of a run that is asked tasks

One stage = one rule = one program scripts/<rule>.py = one folder results/<rule>/. What is built is said in
config.yaml under `runs:`. The README has the table of what reruns when something changes.
"""

from snakemake.utils import min_version

min_version("9.0")


configfile: f"{workflow.basedir}/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"


# on a cluster these run where Snakemake does
localrules:
    all,
    download,
    gc,
    tokenizer,
    verify,
    write_report,


rule all:
    default_target: True
    input:
        # those of the runs too: one that was removed is made again
        "results/write_report/manifest.json",
        run_manifests(),


include: "workflow/rules/data.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/report.smk"
