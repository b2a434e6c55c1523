"""Lists what in results/ no configured run uses, with sizes, and deletes it if asked to.

Unused are artifacts of other runs, corpora and tokenizers, checkpoints of identities that a run no longer has, and
what dead writers left. Logs, and what is no artifact of makelm, are left alone.
"""

import argparse
from pathlib import Path

from makelm import cli, closure, configfile, garbage, used
from makelm.progress import Progress, size

NAMES = 10  # of runs, in a line


def arguments() -> argparse.Namespace:
    """Returns what the command line says."""
    parser = argparse.ArgumentParser(
        "collect_garbage.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="the whole configuration: JSON, or a .json or .yaml file")
    parser.add_argument("--lock", type=Path, default=closure.LOCK, help="the lock file (default: makelm's own uv.lock)")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="the folder to look into (default: %(default)s)"
    )
    parser.add_argument("--delete", action="store_true", help="delete what is listed")
    parser.add_argument("--log", type=Path, help="also write to this file")
    return parser.parse_args()


def collect(args: argparse.Namespace, progress: Progress) -> str:
    """Lists, deletes and sums up."""
    settings = configfile.load(cli.read_keys(args.config, "--config"))
    runs = list(used.runs(settings))
    names = ", ".join(runs[:NAMES]) + (f" and {len(runs) - NAMES} more" if len(runs) > NAMES else "")
    progress.say(
        f"measured against {len(runs)} run{'s' * (len(runs) > 1)}: {names};"
        " what other configuration files or --config use counts as unused"
    )
    found = garbage.find(settings, args.lock.read_text(), args.results)
    for line in found.notes:
        progress.say(line)
    count, total = garbage.collect(found.things, args.results, args.delete, progress.say)
    amount = f"{count} thing{'s' * (count > 1)}, {size(total)}"
    if not count:
        progress.say("nothing is unused")
    elif args.delete:
        progress.say(f"deleted {amount}")
    else:
        progress.say(f"{amount}; to delete: make gc YES=1, with the same ARGS if there were any")
    return ""


if __name__ == "__main__":
    args = arguments()
    cli.frame("gc", args.log, lambda progress: collect(args, progress))
