"""The stages of `gpu.py`: each is a list of cells, and a cell is a measurement."""
