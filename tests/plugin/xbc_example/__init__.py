"""A pass, an export format, a chip and an operator for xbc."""
