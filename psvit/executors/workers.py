"""Workers: how the workers of a Ray cluster are named, by its address and what each of them takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from psvit.errors import InputError

_FORM = re.compile(r"(?P<address>ray|ray://.+?)(?::gpus=(?P<gpus>[0-9.]{1,10}))?")


@dataclass(frozen=True)
class Workers:
    """The workers of a cluster.

    Attributes:
        address: `ray` joins the cluster that `RAY_ADDRESS` names, or starts one; `ray://host:port` reaches one from
            outside.
        gpus: the share of a GPU that each takes, where they compute on GPUs. With 0.25, four share one.
    """

    address: str
    gpus: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read workers as they are written: an address, then what each takes, as in `ray:gpus=0.25`.

        Raises:
            InputError: not such a text.
        """
        found = _FORM.fullmatch(str(text))
        if not found:
            raise InputError(
                f"--workers {text!r}: permitted are ray and ray://host:port, and behind them :gpus=, such as "
                "ray:gpus=0.25"
            )
        try:
            gpus = float(found["gpus"] or 1)
        except ValueError:
            gpus = 0.0
        if not 0.01 <= gpus <= 1:
            raise InputError(
                f"--workers {text!r}: gpus is the share of a GPU that a worker takes, from 0.01 to 1, "
                f"received {found['gpus']}"
            )
        return cls(found["address"], gpus)
