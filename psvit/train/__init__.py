"""Training: recipes, the one loop, and trainings as values."""
