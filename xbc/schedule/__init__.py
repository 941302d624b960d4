"""When everything happens and what it costs: write and read costs of loads, and the timeline of a program."""

from xbc.schedule.costs import Costs, program_costs, read_costs, write_costs
from xbc.schedule.timeline import Schedule, batch_curve, schedule

__all__ = ["Costs", "Schedule", "batch_curve", "program_costs", "read_costs", "schedule", "write_costs"]
