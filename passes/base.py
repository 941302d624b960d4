"""What a pass is.

A pass is a frozen dataclass.  Its fields are its options (their types check the pipeline text and the command
line), its docstring is its manual page, ``requires`` and ``ensures`` are the stages of ``ir.stages`` it works
between.  ``run`` reads a ``Context`` and returns an ``Outcome``: a new module, never the one it was given changed,
and what it learned.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args, get_origin

from ir.errors import XbcError
from ir.module import Module
from ir.progress import Progress, silent
from ir.stages import Body
from passes.inputs import Moments, Sensitivities


@dataclass(frozen=True)
class Context:
    """All that a pass may read beside the module and its options.

    Fields:
        seed: of every random choice.
        threads: worker threads (results must not depend on it).
        progress: called with (what, done, total).
        sensitivities: how much the loss curves along every weight, None when nobody measured it.
        moments: second moments of the inputs by layer name, None when nobody measured them.
    """

    seed: int = 0
    threads: int = 2
    progress: Progress = silent
    sensitivities: Sensitivities | None = None
    moments: Mapping[str, Moments] | None = None


@dataclass(frozen=True)
class Outcome:
    """What a pass returns.

    Fields:
        module: the transformed module.
        facts: what the pass learned (bounds, gaps, plans), in JSON's types; kept in its record and the manifest.
        notes: sentences that the user should read.
    """

    module: Module
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pass(ABC):
    """Base of all passes; subclasses are frozen dataclasses whose fields all have defaults."""

    name: ClassVar[str]
    requires: ClassVar[type[Body]]
    ensures: ClassVar[type[Body]]
    back_to: ClassVar[type[Body] | None] = None
    """Stage from which the pass makes a module anew that is further: what stands beyond it is dropped, and the manager
    says so.  None: the pass drops nothing."""
    extra: ClassVar[type[Any] | None] = None
    """Dataclass of the target's table ``[extra.<name>]``, which ``Target.extra_table`` reads; None: no such table."""
    respects_faults: ClassVar[bool] = False
    """Whether the levels it leaves are those that faulty cells hold; before such a pass nothing needs to."""

    @abstractmethod
    def run(self, module: Module, context: Context) -> Outcome:
        """The new module and what was learned.  Raises XbcError when the module or the options do not allow it."""

    def accepts(self, body: Body) -> bool:
        """Whether the pass can work on a layer at this stage."""
        return isinstance(body, self.requires)

    def weighs(self) -> bool:
        """Whether sensitivities change what the pass does."""
        return False

    def only_if(self, holds: bool, when: str, *fields: str) -> None:
        """Raises XbcError naming the first of ``fields`` that is set although it has no effect.

        Args:
            holds: whether they have one.
            when: what would give them one, as in ``with method=routing``.
        """
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        for name in () if holds else fields:
            value = getattr(self, name)
            if value != defaults[name]:
                raise XbcError(
                    f"{self.name}: {_option(name)} = {_text(value)} has an effect only {when}: leave it out"
                )

    @classmethod
    def options(cls) -> dict[str, tuple[Any, Any]]:
        """Option name (with dashes) -> (type, default)."""
        hints = typing.get_type_hints(cls)
        return {_option(f.name): (hints[f.name], f.default) for f in dataclasses.fields(cls)}

    @classmethod
    def create(cls, settings: Mapping[str, str]) -> Pass:
        """A pass from option texts.  Raises XbcError for an unknown option or a text of the wrong type."""
        options = cls.options()
        names = {_option(f.name): f.name for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for key, text in settings.items():
            if key not in options:
                known = ", ".join(options) or "none"
                raise XbcError(f"pass {cls.name!r} has no option {key!r}; its options: {known}")
            values[names[key]] = parse_option(f"option {key!r} of pass {cls.name!r}", options[key][0], text)
        return cls(**values)

    def __str__(self) -> str:
        shown = [
            f"{_option(f.name)}={_text(getattr(self, f.name))}"
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != f.default
        ]
        return self.name + (f"{{{','.join(shown)}}}" if shown else "")


def _option(field_name: str) -> str:
    """Option name of a field: dashes; a trailing underscore only keeps clear of a keyword (``lambda_``)."""
    return field_name.rstrip("_").replace("_", "-")


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ":".join(f"{item:.9g}" for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def describe_type(hint: Any) -> str:
    """How a manual page writes an option's type."""
    if get_origin(hint) is Literal:
        return " | ".join(str(a) for a in get_args(hint))
    if get_origin(hint) is tuple:
        return "numbers between colons"
    return str(getattr(hint, "__name__", hint))


def parse_option(who: str, hint: Any, text: str) -> Any:
    """``text`` as a value of type ``hint`` (bool, int, float, str, Literal or a tuple of floats)."""
    if get_origin(hint) is Literal:
        for choice in get_args(hint):
            if str(choice) == text:
                return choice
    elif hint is bool:
        if text in ("true", "false"):
            return text == "true"
    elif hint is str:
        return text
    elif get_origin(hint) is tuple:
        return tuple(parse_option(who, float, item) for item in text.split(":"))
    else:
        try:
            value = hint(text)
        except ValueError:
            pass
        else:
            if hint is float and not math.isfinite(value):
                raise XbcError(f"{who}: {text!r} must be a finite number")
            return value
    wanted = "true | false" if hint is bool else describe_type(hint)
    raise XbcError(f"{who}: {text!r} is not of type {wanted}")


def check(condition: bool, message: str) -> None:
    """Raise XbcError(message) unless ``condition``; for option ranges in ``__post_init__``."""
    if not condition:
        raise XbcError(message)
