"""A pass, an export format and a chip for xbc."""
