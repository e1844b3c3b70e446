"""Searching a space under a budget: searchers propose, evaluators score, a study remembers."""
