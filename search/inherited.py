"""Inherited accuracy: how well architectures classify held-out images with the supernet's weights.

A population is evaluated batch by batch, in one walk of its prefix tree a batch (`psvit.search.prefix_tree`), and
raced between batches (`psvit.search.racing`). Both can be switched off.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from psvit.arch.architecture import Architecture
from psvit.data import Batches
from psvit.executors.failures import NO_NUMBERS
from psvit.io.progress import progress_bar
from psvit.nn.precision import float32_products
from psvit.report.formatting import count
from psvit.search.evaluator import INHERITED
from psvit.search.prefix_tree import PrefixTree, Weights, run
from psvit.search.racing import Field, Race, right_answers
from psvit.search.trial import Score
from psvit.supernet.supernet import Supernet

_logger = logging.getLogger(__name__)


class InheritedAccuracy:
    """Top-1 accuracy in percent with the supernet's weights, on images held out from training.

    Sharing changes no score: on a CPU logits are equal bit for bit. Racing leaves those that it does not give up their
    score on all images, and gives the others the one on the images that they have seen.

    Args:
        supernet: the weights; they may change between populations, not during one.
        batches: the held-out images.
        share_prefixes: whether what architectures of a population have in common is computed once.
        race: when candidates are given up; without it none is.
        fidelity: what is known of how well the supernet ranks, JSON-serialisable; `None` if it was not measured.

    Raises:
        ValueError: images in the order of their files are raced, about which the guarantee says nothing.
    """

    def __init__(
        self,
        supernet: Supernet,
        batches: Batches,
        *,
        share_prefixes: bool = True,
        race: Race | None = None,
        fidelity: dict[str, Any] | None = None,
    ) -> None:
        if race is not None and not batches.is_shuffled:
            raise ValueError("racing needs batches in a random order: give them an order_seed")
        self._supernet = supernet.eval()
        self._batches = batches
        self._share_prefixes = share_prefixes
        self._race = race
        self._fidelity = fidelity

    @torch.inference_mode()
    @float32_products("highest")
    def evaluate(self, archs: Sequence[Architecture], best: Sequence[float] = (), parts: int = 1) -> list[Score]:
        """The accuracies of a population.

        Args:
            archs: the population, no two equal.
            best: accuracies of others on all of these images, best first; more than the race keeps do not matter.
            parts: into how many parts the population was cut, of which this is one.

        Returns:
            Their scores, in their order. Failed are those that ran out of memory on their own too, and those whose
            logits are not finite.
        """
        num_images, size = self._batches.num_images, self._batches.batch_size
        answers = _Answers(len(archs), num_images)
        weights = Weights(self._supernet)
        everyone = range(len(archs))
        field: Field | None = None
        looks: Sequence[int] = ()
        if self._race is not None and best:
            ends = [*range(size, num_images, size), num_images]
            looks = self._race.looks(ends)
            known = [right_answers(accuracy, num_images) for accuracy in best[: self._race.keep]]
            field = Field(self._race.of_parts(parts), len(archs), num_images, len(looks), known)
        self._answer(archs, everyone, answers, weights, field, looks)
        if field is not None and answers.failures:
            # A rival may fail after others were given up because of it. Those get the rest of the images after all.
            beaten = field.beaten(answers.failed)
            again = [i for i in everyone if i not in answers.failures and not beaten[i]]
            self._answer(archs, again, answers, weights)
        scores = [answers.score(i) for i in everyone]
        if field is not None:
            given_up = sum(score.state == "raced" for score in scores)
            _logger.info("raced %d candidates: %d given up", len(archs), given_up)
        return scores

    def _answer(
        self,
        archs: Sequence[Architecture],
        running: Sequence[int],
        answers: _Answers,
        weights: Weights,
        field: Field | None = None,
        looks: Sequence[int] = (),
    ) -> None:
        """Have candidates answer the batches that they have not answered; those that a race gives up leave."""
        walked: list[int] = []
        trees: list[PrefixTree] = []
        start, num_images = 0, self._batches.num_images
        told = f"scoring {count(len(running), 'candidate')}"
        left = sum(num_images - answers.seen[i] for i in running)
        with progress_bar(told, left, "images") as advance:
            for images, labels in self._batches:
                here = [i for i in running if answers.seen[i] == start and i not in answers.failures]
                if here != walked:
                    walked, trees = here, self._trees(archs, here)
                for tree in trees:
                    self._answer_batch(archs, tree, images, labels, answers, weights, advance)
                start += len(labels)
                if field is not None and start in looks:
                    answers.take_in()
                    still = [i for i in running if i not in answers.failures]
                    field.look(answers.correct[still, :start], still)
                    beaten = field.beaten(answers.failed)
                    running = [i for i in still if not beaten[i]]
                    advance((len(still) - len(running)) * (num_images - start), "")
                if all(i in answers.failures for i in running):
                    break
        answers.take_in()

    def _trees(self, archs: Sequence[Architecture], positions: list[int]) -> list[PrefixTree]:
        """One tree of all, or one of each where nothing is shared."""
        parts = [positions] if self._share_prefixes else [[position] for position in positions]
        return [PrefixTree(self._supernet.space, [archs[i] for i in part], part) for part in parts]

    def _answer_batch(
        self,
        archs: Sequence[Architecture],
        tree: PrefixTree,
        images: Tensor,
        labels: Tensor,
        answers: _Answers,
        weights: Weights,
        advance: Callable[[int, str], None],
    ) -> None:
        def found(position: int, logits: Tensor) -> None:
            answers.add(position, logits, labels)
            advance(len(labels), "")

        for position in run(tree, weights, images, found):
            # On its own, when nothing else is alive.
            if images.is_cuda:
                torch.cuda.empty_cache()
            alone = PrefixTree(self._supernet.space, [archs[position]], [position])
            answers.failures |= run(alone, weights, images, found)

    def describe(self) -> dict[str, Any]:
        """Says on how many images the accuracy rests, whether it is raced, and what is known of its fidelity."""
        return {
            "kind": INHERITED,
            "meaning": "top-1 in percent with the supernet's weights, on images held out from training",
            "images": self._batches.num_images,
            "raced": self._race.describe() if self._race is not None else "no",
            "fidelity": self._fidelity or "not measured",
        }


class _Answers:
    """The answers of the candidates of a population so far.

    They wait on the device until they are asked for, because every transfer makes the processor wait for a GPU.

    Args:
        num_candidates: how many there are.
        num_images: how many images all are.
    """

    def __init__(self, num_candidates: int, num_images: int) -> None:
        self.correct = np.zeros((num_candidates, num_images), dtype=np.bool_)
        self.seen = [0] * num_candidates
        self.failures: dict[int, str] = {}
        self._waiting: list[tuple[int, int, Tensor]] = []

    @property
    def failed(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which candidates failed, (n,)."""
        return np.isin(np.arange(len(self.seen)), list(self.failures))

    def add(self, position: int, logits: Tensor, labels: Tensor) -> None:
        """Add a candidate's logits (B, classes) for the images after those that it has seen."""
        is_right = logits.argmax(dim=1) == labels
        self._waiting.append((position, self.seen[position], torch.cat([logits.isfinite().all()[None], is_right])))
        self.seen[position] += len(labels)

    def take_in(self) -> None:
        """Bring what waits on the device into `correct` and `failures`, in one transfer."""
        if not self._waiting:
            return
        flags = torch.cat([some for _, _, some in self._waiting]).cpu().numpy()
        end = 0
        for position, start, some in self._waiting:
            here = flags[end : end + len(some)]
            end += len(some)
            if not here[0]:
                self.failures.setdefault(position, NO_NUMBERS)
            self.correct[position, start : start + len(some) - 1] = here[1:]
        self._waiting.clear()

    def score(self, position: int) -> Score:
        """A candidate's score."""
        if position in self.failures:
            return Score(value=None, state="failed", reason=self.failures[position])
        seen = self.seen[position]
        value = 100 * int(self.correct[position].sum()) / seen
        return Score(value=value, images=seen, state="complete" if seen == self.correct.shape[1] else "raced")
