"""Files that other people's files become without being there twice."""

import errno
import os
import shutil
from pathlib import Path

# errors of a hard link where a copy does: other file systems, such without links, files of other people
NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS})


def link_or_copy(source: Path, target: Path) -> bool:
    """Makes a file of the same content, a hard link where the file system has them; returns whether it is one.

    So what takes gigabytes is not there twice. Who changes the original in place changes this file too: its sum is not
    the manifest's any more, which `verify` and the stages that read it say. The hub's cache is made of symbolic links;
    it is the file behind them that is linked.
    """
    original = source.resolve()
    try:
        os.link(original, target)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        shutil.copyfile(original, target)
        return False
    return True
