"""How many files a process may have open: often 1,024, which a corpus of more shards needs more than."""

import resource

ENOUGH = 65_536


def allow() -> None:
    """Raises the limit on open files as far as this machine lets a process do that, but not beyond ENOUGH."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
