"""The one exception that reaches a person as a sentence; everything else is a bug."""


class SteerError(Exception):
    """A message meant for the person at the keyboard: what is wrong, where, and what to do."""
