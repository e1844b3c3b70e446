"""ResultCache: results besides scores, kept in a study: accuracies of trained finalists, and measured latencies.

Each is an attribute of the study. Its name holds all it depends on that the study's configuration does not say. Other
processes that work on the study find it, and so does the same search in another folder. Another study has its own.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from psvit.errors import InputError
from psvit.train.training_job import ScoredOn, TrainingJob, TrainingResult


def _damaged(name: str, rule: str) -> InputError:
    return InputError(f"study: {name} is damaged: {rule}")


class ResultCache:
    """The results of one study, JSON-serialisable mappings by name.

    Args:
        study: where they are kept.
        damaged: makes the error of a result of this name that has a wrong shape.
    """

    def __init__(self, study: optuna.Study, damaged: Callable[[str, str], InputError] = _damaged) -> None:
        self._study = study
        self.damaged = damaged

    def get(self, name: str) -> dict[str, Any] | None:
        """The result of this name, by whichever process; `None` if there is none yet.

        Raises:
            InputError: it is no mapping.
        """
        value: dict[str, Any] | None = self._study.user_attrs.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.damaged(name, "must be a mapping")
        return value

    def get_or_compute(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result of this name. If there is none yet, it is computed, and kept before it is returned.

        Two processes that look for the same result at the same time both compute it. The first to finish is believed.
        """
        known = self.get(name)
        if known is None:
            computed = compute()
            known = self.get(name)
            if known is None:
                self._study.set_user_attr(name, computed)
                known = computed
        return known

    def add(self, name: str, found: dict[str, Any]) -> None:
        """Keep what was found; of what is known of this name already, nothing is changed."""
        known = self.get(name) or {}
        if not found.keys() <= known.keys():
            self._study.set_user_attr(name, {**found, **known})


def packed(right: NDArray[np.bool_]) -> list[Any]:
    """Which images a network recognises, (images,), JSON-serialisable: their number, and their bits as text."""
    return [len(right), b64encode(np.packbits(right).tobytes()).decode()]


def unpacked(known: Any) -> NDArray[np.bool_]:
    """What was packed.

    Raises:
        ValueError: this is not what `packed` gives.
    """
    match known:
        case [int() as images, str() as text]:
            bits = np.frombuffer(b64decode(text, validate=True), dtype=np.uint8)
            if len(bits) == -(-images // 8):
                return np.unpackbits(bits, count=images).astype(np.bool_)
    raise ValueError("must be a number of images and their bits")


class StudyStore:
    """The result store of a study: accuracies on the search images, which verdict images were recognised, and seconds.

    Args:
        cache: the study's. Its configuration says which images the jobs have.
    """

    def __init__(self, cache: ResultCache) -> None:
        self._cache = cache

    def get(self, job: TrainingJob) -> TrainingResult | None:
        """See `ResultStore`."""
        known = self._cache.get(self._name(job))
        if known is None:
            return None
        right: dict[ScoredOn, NDArray[np.bool_]] = {}
        accuracies: dict[ScoredOn, float] = {}
        try:
            accuracies["search"] = float(known["accuracy"])
            if "verdict" in known:
                right["verdict"] = unpacked(known["verdict"])
                accuracies["verdict"] = 100 * float(right["verdict"].mean()) if len(right["verdict"]) else 0.0
            seconds = float(known["seconds"]) if known.get("seconds") is not None else None
        except (KeyError, TypeError, ValueError, OverflowError):
            raise self._cache.damaged(self._name(job), "must have an accuracy and packed answers") from None
        return TrainingResult(accuracies=accuracies, right=right, seconds=seconds)

    def put(self, job: TrainingJob, result: TrainingResult) -> None:
        """See `ResultStore`."""
        found: dict[str, Any] = {"accuracy": result.accuracies["search"], "seconds": result.seconds}
        if "verdict" in result.right:
            found["verdict"] = packed(result.right["verdict"])
        self._cache.add(self._name(job), found)

    @staticmethod
    def _name(job: TrainingJob) -> str:
        return f"training:{job.digest}"
