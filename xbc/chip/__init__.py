"""The virtual chip: replays an emitted program from its files and checks every promise in it."""

from xbc.backend.problems import Problem, Report
from xbc.chip.chip import Chip
from xbc.chip.replay import Replay, replay
from xbc.chip.verify import effective_codes, verify_program

__all__ = ["Chip", "Problem", "Replay", "Report", "effective_codes", "replay", "verify_program"]
