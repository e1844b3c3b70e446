"""Makes `import psvit` work in a source tree that is not installed; imported for that alone, and before psvit."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

if importlib.util.find_spec("psvit") is None or importlib.util.find_spec("psvit.search") is None:
    sys.path.insert(0, str(ROOT))
    sys.modules.pop("psvit", None)
    import psvit

    # The folders beside psvit/ are its packages too, as setup.cfg has them.
    psvit.__path__.append(str(ROOT))
