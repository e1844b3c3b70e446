"""What a network of the family is, and what it costs; no deep-learning library is loaded."""
