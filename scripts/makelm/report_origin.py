"""How a run came about: its stages from the corpus on, what each read, how long it took and where it worked."""

from makelm.ancestry import Node
from makelm.report_runs import Run


def steps(run: Run) -> list[dict]:
    """Returns the run's stages from the corpus on; the shards of one corpus are one step."""
    groups: dict[tuple[str, str], list[Node]] = {}
    for node in [*run.ancestors, *run.stages.values(), *run.asked.values()]:
        groups.setdefault((node.stage, node.entry), []).append(node)
    names = {node.manifest["digest"]: node for group in groups.values() for node in group}
    return [step(stage, entry, nodes, names) for (stage, entry), nodes in groups.items()]


def step(stage: str, entry: str, nodes: list[Node], names: dict[str, Node]) -> dict:
    """Returns what the page shows of one stage: what it read, what it is, and how it came about."""
    contents = [node.manifest["content"] for node in nodes]
    made = [node.manifest["made"] for node in nodes]
    files = [entry for content in contents for entry in content["files"].values() if entry]
    inputs: dict[str, dict[str, None]] = {}  # what it read -> the digests, each once
    for digest in (digest for content in contents for digest in content["inputs"].values()):
        known = names.get(digest)
        name = f"{known.stage} {known.entry}" if known else "not in this results folder"
        inputs.setdefault(name, {})[digest] = None
    return {
        "stage": stage,
        "entry": entry,
        "digests": [node.manifest["digest"] for node in nodes],
        "inputs": {name: list(digests) for name, digests in inputs.items()},
        "seconds": sum(one["seconds"] for one in made),
        "memory": max(one["peak_memory_bytes"] for one in made),
        "bytes": sum(file["bytes"] for file in files),
        "files": len(files),
        "code": contents[0]["code"],
        "packages": contents[0]["packages"],
        "made": made[0],
        "started": made[0]["started"].replace("T", " ").replace("+00:00", " UTC"),
    }


def places(run: Run) -> list[str]:
    """Returns where the run's stages worked, each place once."""
    made = [node.manifest["made"] for node in [*run.ancestors, *run.stages.values(), *run.asked.values()]]
    return list(dict.fromkeys(f"{one['host']} ({one['system']}, Python {one['python']})" for one in made))
