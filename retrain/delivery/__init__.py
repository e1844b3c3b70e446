"""Delivering a trained network: exported in the forms that others run, and used on images."""
