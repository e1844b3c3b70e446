"""The greatest values that a file may name: beyond what anyone trains, and small enough to be counted and priced."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Width = Annotated[int, Field(gt=0, le=16_384)]
"""Channels of a token or of a head."""

MOST_CHANNELS = 4_096

Channels = Annotated[int, Field(gt=0, le=MOST_CHANNELS)]
"""Channels of an image."""

Side = Annotated[int, Field(gt=0, le=4_096)]
"""Pixels of a side, of an image or of a patch."""

MOST_LAYERS = 64
"""Of a stage."""

Layers = Annotated[int, Field(gt=0, le=MOST_LAYERS)]
"""Layers of a stage or of a group."""

Ratio = Annotated[float, Field(gt=0, le=64)]
"""Hidden width of the MLPs relative to the channels."""

MOST_CLASSES = 10_000_000

MOST_COST = 2**60
"""Of an architecture, in multiply-accumulates: costs and their sums are 64-bit integers."""
