"""The contract kit: what every plugin, ours or yours, has to hold.

A check is called with what it checks: a Case (an algorithm on a small model and a small batch), or a task and what
judges its completions. It raises PluginError, which says what was expected and what came, or NotApplicable.
`rlbench-check` runs all checks of a plugin; tests call them one by one. docs/algorithm.md and docs/task.md say why
they ask.
"""

from ..types import PluginError
from .algorithm import FUNCTION_RULES
from .case import Case, algorithm_case
from .outcome import NotApplicable, Rule
from .rows import ROW_RULES
from .subjects import algorithm_of, options, task_of
from .task import TASK_CHECKS

__all__ = [
    "ALGORITHM_CHECKS",
    "TASK_CHECKS",
    "Case",
    "NotApplicable",
    "PluginError",
    "Rule",
    "algorithm_case",
    "algorithm_of",
    "options",
    "task_of",
]

ALGORITHM_CHECKS: dict[str, Rule] = FUNCTION_RULES | ROW_RULES
