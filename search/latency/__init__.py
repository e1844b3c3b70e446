"""Latency: measured by one function, predicted by a model of a space on this device, kept as a limit in a search."""
