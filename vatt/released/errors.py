"""What can be wrong with released weights."""


class ReleasedError(ValueError):
    """Released weights that cannot be used. The message names the file (and the variable) and what is wrong with it."""
