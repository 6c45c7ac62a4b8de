"""Files that policies name: key sets, CA certificates, bearer tokens. Only plain ones are opened."""

import os
import stat
from pathlib import Path


def stat_regular_file(path: str | Path) -> os.stat_result:
    """What the system says of a plain file, links followed.

    Raises ``OSError`` for anything else: to open a pipe is to wait for whoever writes, and some devices never end.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path} is not a regular file")
    return status
