"""The error that a user can mend."""


class InputError(ValueError):
    """Something the user gave cannot be used; the message names the file, the value and the remedy."""
