"""After an interruption: what a chip holds, what is still to be written, and what has to be repaired."""
