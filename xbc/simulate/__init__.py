"""Functional simulation: ideal, integer with converters, devices."""
