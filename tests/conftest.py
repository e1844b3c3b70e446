"""What all tests share."""

from __future__ import annotations

import os

# The suite runs in several processes, and threads of theirs that wait for one another slow each other down many times
# over. Set before PyTorch is loaded, and inherited by the commands that tests call.
os.environ.setdefault("OMP_NUM_THREADS", "1")
