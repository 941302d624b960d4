"""What a command or a notebook calls: a request in, a compiled program and its facts out."""
