"""Reads everything that a configuration stands for and says what is missing, truncated, altered or stale.

Reads results/. Writes nothing there: it ends with 0 where all is as it should be, else with 2 and one line
for each thing that is wrong.
"""

import argparse
from pathlib import Path

from makelm import cli, closure, configfile, verification
from makelm.progress import Progress, size


def arguments() -> argparse.Namespace:
    """Returns what the command line says."""
    parser = argparse.ArgumentParser(
        "verify.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, help="the whole configuration: JSON, or a .json or .yaml file")
    parser.add_argument("--lock", type=Path, default=closure.LOCK, help="the lock file (default: makelm's own uv.lock)")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="the folder to read (default: %(default)s)"
    )
    parser.add_argument("--log", type=Path, help="also write to this file")
    return parser.parse_args()


def verify(args: argparse.Namespace, progress: Progress) -> str:
    """Says each thing that is wrong and returns their number as a line, or nothing."""
    settings = configfile.load(cli.read_keys(args.config, "--config"))
    counts = verification.Counts()
    wrong = 0
    for line in verification.verify(settings, args.lock.read_text(), args.results, counts):
        progress.say(line)
        wrong += 1
    if wrong:
        return f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong in {args.results}"
    progress.say(f"{counts.artifacts} artifacts, {counts.files} files, {size(counts.bytes)}: all as they should be")
    return ""


if __name__ == "__main__":
    args = arguments()
    cli.frame("verify", args.log, lambda progress: verify(args, progress))
