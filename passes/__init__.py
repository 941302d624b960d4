"""Transformations of crossbar modules: one file per pass, the manager, the named pipelines."""
