"""The one error that a user is meant to read."""

import errno

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, over the quota, over the limit of a file's size."""


class UserError(Exception):
    """Something the user can mend: the message names the file, row or key, and the remedy.

    `stage.run` prints it as it stands, without a traceback, and exits with status 1.
    """
