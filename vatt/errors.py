"""The base of every error that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """A fault in what the user gave: a file, an option, a value. The message names the file and the field.

    Commands print such an error in one line and exit with 1; any other exception is a fault of this project.
    """
