"""What the command lines of several benchmarks have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from psvit.errors import InputError, RunError
from psvit.space.search_space import SearchSpace
from psvit.train.recipe import USUAL_IMAGES, Recipe, default_recipe


def at_least(least: int) -> Callable[[str], int]:
    """What reads a number from the command line that must not be less."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"at least {least} is needed, received {text}")
        return int(text)

    return number


def chosen_recipe(name: str | None, epochs: int | None, space: SearchSpace) -> Recipe:
    """How networks are trained alone.

    Args:
        name: of the recipe; by the size of the images where not given.
        epochs: in place of the recipe's; warm-up becomes shorter where it is as long, and is not left out, which costs
            short trainings several points (`docs/benchmarks-older.md`).
        space: of the networks.
    """
    size = min(space.image_size)
    recipe = Recipe.load(name) if name else default_recipe(size, USUAL_IMAGES, space.in_chans, supernet=False)
    if not epochs:
        return recipe
    return recipe.override({"epochs": epochs, "warmup_epochs": min(recipe.warmup_epochs, epochs - 1)})


def run_script(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None], options: argparse.Namespace
) -> None:
    """Run a script; what ends it early is said in one line, with the status that the commands have for it."""
    try:
        run(options)
    except InputError as error:
        parser.error(str(error))
    except RunError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted; the same line continues\n")
