"""Sensitivities (SWIM): how much the loss curves along every crossbar weight.

Modules: ``diagonal`` (the recursion over a model), ``graph`` (which nodes it crosses), ``storage`` (sens.npz),
``noise`` (Monte-Carlo of programming errors).  The rule of each operator is with the operator, in
``xbc.operators``.
"""

from passes.inputs import Sensitivities
from xbc.sensitivity.diagonal import Loss, model_sensitivities
from xbc.sensitivity.storage import load_sensitivities, save_sensitivities

__all__ = ["Loss", "Sensitivities", "load_sensitivities", "model_sensitivities", "save_sensitivities"]
