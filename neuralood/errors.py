"""The one error that a user is meant to read."""


class UserError(Exception):
    """Something the user can mend: the message names the file, row or key, and the remedy.

    `console.stage` prints it as it stands, without a traceback, and exits with status 1.
    """
