"""Which conditions are learnt from, which choose the checkpoint, and which are predicted."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ConfigurationError
from ...evaluation.perturbations.features import Parts
from ...evaluation.perturbations.screen import Condition, Screen
from ...evaluation.perturbations.splits import PerturbationSplit, chosen_split, held_out

if TYPE_CHECKING:
    from ..predict_perturbation import PredictPerturbationSettings


@dataclass(frozen=True)
class PredictionPlan:
    """What becomes of each condition.

    Attributes:
        seen: conditions to learn from.
        choosing: conditions that choose a checkpoint.
        predicted: conditions to predict, whose cells nothing looks at before they are scored.
        split: the same as a split file.
    """

    seen: list[Condition]
    choosing: list[Condition]
    predicted: list[Condition]
    split: PerturbationSplit

    def scored(self, screen: Screen) -> list[Condition]:
        """The predicted conditions that the data have cells of."""
        return [condition for condition in self.predicted if screen.rows(condition).size]

    def shifts(self, screen: Screen) -> tuple[list[Parts], np.ndarray]:
        """The seen perturbations by their genes, and (perturbations, genes) their shifts, means over cell types."""
        of: dict[Parts, list[np.ndarray]] = {}
        for condition in self.seen:
            of.setdefault(screen.parts(condition.perturbation), []).append(screen.shift(condition))
        return list(of), np.stack([np.mean(shifts, axis=0) for shifts in of.values()])


def make_plan(screen: Screen, settings: "PredictPerturbationSettings") -> PredictionPlan:
    """Divide the conditions as the settings say.

    Raises:
        ConfigurationError: nothing would be predicted, or nothing learnt from; or names or the split do not fit.
    """
    if settings.split is not None:
        split = PerturbationSplit.read(settings.split)
        parts = split.parts(screen, settings.dataset)
        plan = PredictionPlan(parts["train"], parts["val"], parts["test"], split)
    elif settings.hold_out is not None:
        split = held_out(screen, settings.hold_out, settings.seed)
        parts = split.parts(screen)
        plan = PredictionPlan(parts["train"], [], parts["test"], split)
    else:
        plan = _named(screen, settings.names)
    if not plan.predicted:
        raise ConfigurationError(f"The split `{settings.split}` leaves no perturbation to predict (`test`).")
    if not plan.seen:
        raise ConfigurationError(
            "All perturbations are to be predicted, and none is left to learn from: name fewer with `perturbations` "
            "(`--perturbations`) or the split."
        )
    if len({screen.parts(condition.perturbation) for condition in plan.seen}) < 2:
        raise ConfigurationError(
            f"Only {plan.seen[0].perturbation!r} is left to learn from: at least two perturbations must be, to tell "
            "what they have in common from what each does."
        )
    return plan


def _named(screen: Screen, names: list[str]) -> PredictionPlan:
    """Predict perturbations by name, which may be combinations of which the data have no cell."""
    by_parts = {screen.parts(condition.perturbation): condition.perturbation for condition in screen.conditions}
    names = [by_parts.get(screen.parts(name), name) for name in names]
    if unsound := [name for name in names if not all(screen.parts(name)) or not screen.parts(name)]:
        raise ConfigurationError(
            f"{unsound[0]!r} is no perturbation to predict: name genes, joined by {screen.separator!r} where several "
            "are perturbed together."
        )
    if len(set(map(screen.parts, names))) < len(names):
        raise ConfigurationError("`perturbations` (`--perturbations`) names one twice: leave it out once.")
    contexts = sorted(set(screen.contexts.tolist()))
    predicted = [Condition(context, name) for context in contexts for name in names]
    seen = [condition for condition in screen.conditions if condition not in set(predicted)]
    return PredictionPlan(seen, [], predicted, chosen_split(screen, names))
