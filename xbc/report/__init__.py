"""Reports and plots of a program."""
