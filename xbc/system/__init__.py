"""What a command asks of the operating system: outputs that are whole or absent, scratch folders, signals."""
