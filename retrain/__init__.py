"""Retraining a found network on its own, and reporting what it is worth."""
