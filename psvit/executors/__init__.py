"""Where independent work is done: this process, or a Ray cluster."""
