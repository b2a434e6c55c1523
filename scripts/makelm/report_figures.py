"""A run's numbers to look at first."""

from makelm import lossy, pages, samples_page
from makelm.progress import score
from makelm.report_runs import Run


def figures(run: Run) -> list[dict]:
    """Returns the run's numbers to look at first, each with what follows it small and what a hover adds."""
    scores = run.scores
    # of a training that was interrupted the last start knows its own time only
    took = max(run.stages["train_model"].manifest["made"]["seconds"], sum(row["seconds"] for row in run.timings))
    flops = run.plan["flops_per_token"] * run.summary["tokens"]
    # of a mixture, and other corpora
    sources = [*scores.get("sources", {}).items(), *scores.get("sets", {}).items()]
    common, of_documents = contamination(run)
    found = [
        (
            "bits per byte",
            score(scores["bits_per_byte"]),
            lossy.warning(lossy.lost_share(scores)),
            f"{scores['bytes']:,} bytes of validation documents",
        ),
        *[(f"of {name}", score(own["bits_per_byte"]), "", f"{own['bytes']:,} bytes") for name, own in sources],
        (
            "validation loss",
            score(scores["validation_loss"]),
            f"± {score(scores['validation_loss_sem'])}",
            "nats per token",
        ),
        ("perplexity", score(scores["perplexity"], 2), "", f"{scores['tokens']:,} validation tokens"),
        *more_losses(scores),
        ("validation seen in train", common, "", of_documents),
        ("samples that parse", samples_page.rate(run.samples), "", "as Python; of a cut text, what is complete"),
        ("parameters", pages.count(run.plan["parameters"]), "", f"{run.plan['parameters']:,}"),
        ("tokens trained on", pages.count(run.summary["tokens"]), "", f"{run.summary['tokens']:,}"),
        ("epochs", *epochs(run)),
        ("training took", pages.duration(took), "", f"{flops:.3g} floating-point operations"),
    ]
    return [dict(zip(("name", "value", "small", "hover"), one, strict=True)) for one in found if one[1]]


def more_losses(scores: dict) -> list[tuple[str, str, str, str]]:
    """Returns the figures of losses beside the validation loss, where there are any."""
    found = []
    if scores.get("last_token_loss") is not None:
        places = [f"token {place}: {score(loss)}" for place, loss in scores.get("loss_by_position", {}).items()]
        found.append(("last token's loss", score(scores["last_token_loss"]), "", "; ".join(places)))
    if scores.get("train_loss") is not None:
        sem = scores.get("train_loss_sem")
        of = f"{scores['train_windows']:,} windows of training tokens" if "train_windows" in scores else ""
        found.append(
            ("training loss, after", score(scores["train_loss"]), f"± {score(sem)}" if sem is not None else "", of)
        )
    return found


def epochs(run: Run) -> tuple[str, str, str]:
    """Returns how often the corpus was gone through, or of a mixture the most often, and what a hover adds."""
    counts = run.summary["epochs"]
    each = [f"{count:.2f} of {name}" for name, count in counts.items()]
    return f"{max(counts.values()):.2f}", "at most" if len(counts) > 1 else "", ", ".join(each)


def contamination(run: Run) -> tuple[str, str]:
    """Returns (the share of validation that occurs in train, what that is); nothing where there is no text to tell."""
    scored = run.stages["evaluate_model"].manifest["content"]["inputs"].values()
    for node in run.ancestors:
        facts = node.manifest["content"]["facts"]
        if node.stage == "download_corpus" and node.manifest["digest"] in scored and "contamination" in facts:
            found, length = facts["contamination"]["validation"], facts["contamination"]["ngram"]
            over_half = f"{found['documents_over_half']:,} of {found['documents']:,} documents by more than half"
            return f"{100 * found['share']:.1f}%", f"{length} words in a row of validation documents; {over_half}"
    return "", ""
