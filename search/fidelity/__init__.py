"""Fidelity: how far the scores that a supernet gives can be trusted, measured on networks that were trained alone."""
