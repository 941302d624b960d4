"""The one exception type that reaches a user as a sentence."""

from __future__ import annotations

import re
from typing import Final

LONGEST: Final = 300
"""Characters of a sentence."""
_SHORTEST_WORD: Final = 24
_CUT: Final = "..."


class XbcError(Exception):
    """A fault in the input, named with its cause and its cure: one line of at most ``LONGEST`` characters.

    The command line prints the message and exits with code 2; a bug is any other exception.
    """

    def __init__(self, message: object = "") -> None:
        """Whatever a hostile file calls itself: see ``sentence``."""
        super().__init__(sentence(str(message)))


def sentence(text: str) -> str:
    """``text`` as one printable line of at most ``LONGEST`` characters.

    What is too long loses the middle of its longest words first (names and paths, of which both ends tell
    something), then the middle of the whole, so that what is wrong and what to do both stay.
    """
    line = re.sub(r"\s+", " ", text).strip()
    line = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in line
    )
    if len(line) <= LONGEST:
        return line
    words = line.split(" ")
    sizes = sorted({len(word) for word in words}, reverse=True)
    for size in [*(s for s in sizes if s > _SHORTEST_WORD), _SHORTEST_WORD]:
        over = len(line) - LONGEST
        long = [word for word in words if len(word) > size]
        # the longest are cut down together to the next longest, or as far as it takes
        if over > 0 and long:
            target = max(size, max(map(len, long)) - -(-over // len(long)))
            words = [middle_cut(word, target) for word in words]
            line = " ".join(words)
    return middle_cut(line, LONGEST)


def middle_cut(text: str, size: int) -> str:
    """``text``, or its two ends with dots between them: ``size`` characters in all."""
    if len(text) <= size:
        return text
    tail = (size - len(_CUT)) // 2
    return text[: size - len(_CUT) - tail] + _CUT + text[len(text) - tail :]
