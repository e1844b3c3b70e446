"""What `robustness.py` kills, and how it is seen that nothing was lost."""
