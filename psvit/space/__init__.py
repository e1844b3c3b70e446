"""Which networks are candidates: spaces and budgets; no deep-learning library is loaded."""
