"""Algorithms the passes are built from: kernels, searches, bounds.  They know arrays, not modules."""
