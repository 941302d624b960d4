"""The one exception type that reaches a user as a sentence."""

from __future__ import annotations


class XbcError(Exception):
    """A fault in the input, named with its cause and its cure.

    The command line prints the message and exits with code 2; a bug is any other exception.
    """
