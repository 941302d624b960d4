"""When everything happens and what it costs: what loads write, read and fetch, and the timeline of a program."""

from xbc.schedule.costs import Costs, module_costs, program_costs, read_costs, write_costs
from xbc.schedule.timeline import Schedule, batch_curve, schedule
from xbc.schedule.whole import cost_facts

__all__ = [
    "Costs", "Schedule", "batch_curve", "cost_facts", "module_costs", "program_costs", "read_costs", "schedule",
    "write_costs",
]  # fmt: skip
