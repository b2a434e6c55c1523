"""A browser without a screen, for tests of pages: Chromium of this machine, driven by Playwright."""

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# root has no sandbox to work in
FLAGS = ["--no-sandbox"] if os.geteuid() == 0 else []


def found() -> str | None:
    """Returns the path of a browser."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def lacks() -> str | None:
    """Returns what keeps this machine from having a browser, or None. Installs Debian's Chromium if it can."""
    if found():
        return None
    if not shutil.which("apt-get") or os.geteuid() != 0:
        return f"none of {', '.join(NAMES)} is here, and only root on Debian can install it"
    for words in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        done = subprocess.run(["apt-get", "-q", *words], capture_output=True, text=True)
        if done.returncode:
            return f"apt-get {words[0]} failed: {done.stderr.strip().splitlines()[-1:]}"
    return None


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """A browser while the tests run; where there can be none, they are skipped and say why."""
    if why := lacks():
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=found(), args=FLAGS)
        yield made
        made.close()
