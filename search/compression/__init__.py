"""Compression: what a search that begins with a network says of it, and what is to be had without a search."""
