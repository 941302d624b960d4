"""Threshold-accumulated updates: what a chip that holds version 1 needs to become version 2."""
