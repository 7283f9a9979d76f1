"""The fault that a user can mend."""


class InputError(ValueError):
    """A fault in what the user gave; its one line names the fault and the remedy."""
