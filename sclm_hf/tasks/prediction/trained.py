"""Cells by a model: opened, or trained on the seen perturbations first."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ConfigurationError
from ...evaluation.perturbations.features import GeneFeatures, Parts
from ...evaluation.perturbations.screen import Condition, Screen
from ...registry import FAMILIES
from .methods import SET, CellPredictor
from .models import SetPredictor, TokenPredictor, model_predictor
from .plan import PredictionPlan

if TYPE_CHECKING:
    from ...sources.cell_source import CellSource
    from ...tokenization.processing_cell import CellProcessor
    from ...training.arguments import TrainingConfig
    from ...training.loop import TrainingResult
    from ...training.settings.perturbation import PerturbationArguments
    from ..files.pieces import Pieces
    from ..predict_perturbation import PredictPerturbationSettings


def is_trained(model: Any, method: str, revision: str | None) -> bool:
    """Whether a model predicts perturbations already; a new one and a pre-trained encoder are trained first.

    Raises:
        CheckpointError: there is no such model.
    """
    from ...opening.perturbation import predicts_perturbations

    if method == SET or model in FAMILIES:
        return False
    return not _is_name(model) or predicts_perturbations(str(model), revision)


def goes_on(pieces: "Pieces | None") -> bool:
    """Whether the training of a run that was stopped was begun, and is to be taken up from its last checkpoint."""
    return pieces is not None and bool(pieces.named("training").load_arrays(0))


def training_settings(
    settings: "PredictPerturbationSettings", pieces: "Pieces | None" = None
) -> "tuple[PerturbationArguments, TrainingConfig]":
    """The settings of the training that comes before the prediction.

    Args:
        settings: the settings.
        pieces: what is kept of a run that was stopped.

    Raises:
        ConfigurationError: no folder for the model is named, or it cannot be used; or the recipe is not understood.
    """
    from ...training.arguments import TrainingConfig, parse_arguments
    from ...training.checkpoints import check_output_dir
    from ...training.settings.perturbation import PerturbationArguments

    if settings.trained is None:
        raise ConfigurationError(
            "A model is trained first: name with `trained` (`--trained`) the folder that it is kept in. To predict "
            "without training take a simple `method` (`--method ridge`), or give as `model` one that was trained."
        )
    flags = ["--output_dir", str(settings.trained), "--seed", str(settings.seed)]
    if settings.recipe is None:
        flags += ["--num_train_epochs", "20", "--learning_rate", "3e-4", "--per_device_train_batch_size", "16"]
    else:
        flags += ["--config", str(settings.recipe)]
    if goes_on(pieces):
        flags += ["--resume_from_checkpoint", "last"]
    arguments, config = parse_arguments((PerturbationArguments, TrainingConfig), flags)
    check_output_dir(config)
    return arguments, config


def model_cells(
    screen: Screen,
    plan: PredictionPlan,
    features: GeneFeatures | None,
    settings: "PredictPerturbationSettings",
    model: Any,
    processor: "CellProcessor | None",
    method: str,
    source: "CellSource",
    pieces: "Pieces | None" = None,
) -> CellPredictor:
    """Cells by a model, trained on the seen conditions first unless it was trained before.

    Args:
        screen: the cells.
        plan: what is learnt from and predicted.
        features: vectors of genes, for a set model.
        settings: the settings.
        model, processor: what is trained, or was.
        method: `set` or `model`.
        source: has the data of the cells.
        pieces: keeps predictions, and that training was begun, which is then taken up from its last checkpoint.

    Raises:
        CheckpointError: the model cannot be read, or is of a family that cannot do it.
        ConfigurationError: it would be trained, and settings do not fit.
        GeneCoverageError: it does not know a gene.
    """
    from ...opening.loading import check_device, default_device
    from ...opening.perturbation import open_perturbation_model
    from ...training.settings.perturbation import PerturbationArguments

    check_device(settings.device)
    predicted = [screen.parts(condition.perturbation) for condition in plan.predicted]
    if is_trained(model, method, settings.revision):
        if _is_name(model):
            model, processor = open_perturbation_model(str(model), settings.revision)
        arguments = PerturbationArguments()
        predictor = _predictor(model, processor, screen, predicted, settings, arguments)
    else:
        arguments, config = training_settings(settings, pieces)
        if pieces is not None:
            pieces.named("training").save(0, np.ones(1))
        start_from = str(model) if _is_name(model) and model not in FAMILIES else None
        model, processor = _start(screen, plan, features, model, method, arguments, settings)
        perturbations = [*predicted, *(screen.parts(one.perturbation) for one in (*plan.seen, *plan.choosing))]
        predictor = _predictor(model, processor, screen, perturbations, settings, arguments)
        result = _train(screen, plan, model, processor, predictor, arguments, config)
        if result.is_main_process:
            _note_cells(result, screen, plan, source, start_from)
    model.to(settings.device or default_device()).eval()
    return _kept(
        lambda condition, controls: predictor.cells(screen.parts(condition.perturbation), controls), plan, pieces
    )


def _kept(cells: CellPredictor, plan: PredictionPlan, pieces: "Pieces | None") -> CellPredictor:
    """Cells as predicted, or as kept where they were before."""
    if pieces is None:
        return cells
    kept, number_of = pieces.named("predicted"), {one: number for number, one in enumerate(plan.predicted)}

    def predicted(condition: Condition, controls: np.ndarray) -> np.ndarray:
        found = kept.load(number_of[condition], len(controls))
        if found is None:
            found = cells(condition, controls)
            kept.save(number_of[condition], found)
        return found

    return predicted


def _is_name(model: Any) -> bool:
    return isinstance(model, str) or hasattr(model, "__fspath__")


def _predictor(
    model: Any,
    processor: "CellProcessor | None",
    screen: Screen,
    perturbations: Sequence[Parts],
    settings: "PredictPerturbationSettings",
    arguments: "PerturbationArguments",
) -> TokenPredictor | SetPredictor:
    return model_predictor(
        model,
        processor,
        screen,
        perturbations,
        max_length=arguments.max_length,
        batch_size=settings.batch_size,
        species=settings.species,
        seed=settings.seed,
    )


def _start(
    screen: Screen,
    plan: PredictionPlan,
    features: GeneFeatures | None,
    model: Any,
    method: str,
    arguments: "PerturbationArguments",
    settings: "PredictPerturbationSettings",
) -> "tuple[Any, CellProcessor | None]":
    """The model that training starts from."""
    import torch

    from ...opening.perturbation import new_perturbation_model, new_set_model, start_perturbation_model
    from ...training.arguments import read_mapping

    torch.manual_seed(settings.seed)
    config = read_mapping("model_config", arguments.model_config)
    if method == SET:
        config = {"cells_per_set": arguments.cells_per_set, **config}
        vectors = np.asarray(features.vectors, np.float32)
        return new_set_model(screen.genes, features.names, vectors, config), None
    if model in FAMILIES:
        perturbed = [gene for one in (*plan.seen, *plan.choosing, *plan.predicted) for gene in _parts(screen, one)]
        genes = list(dict.fromkeys([*screen.genes, *perturbed]))
        return new_perturbation_model(model, genes, config)
    if config:
        raise ConfigurationError(f"`model_config` of the recipe is for new models, and `{model}` has its own.")
    return start_perturbation_model(str(model), settings.revision)


def _parts(screen: Screen, condition: Condition) -> Parts:
    return screen.parts(condition.perturbation)


def _train(
    screen: Screen,
    plan: PredictionPlan,
    model: Any,
    processor: "CellProcessor | None",
    predictor: TokenPredictor | SetPredictor,
    arguments: "PerturbationArguments",
    config: "TrainingConfig",
) -> "TrainingResult":
    from ...training.perturbation import CellPairs, CellSets, train_perturbation_model

    def examples(conditions: Sequence[Condition]) -> "CellPairs | CellSets":
        if isinstance(predictor, SetPredictor):
            return CellSets(screen, conditions, config.seed, columns=predictor.columns, model=model)
        return CellPairs(
            screen,
            conditions,
            config.seed,
            gene_ids=predictor.gene_ids,
            tokens_of=predictor.tokens_of,
            processor=processor,
            max_length=arguments.max_length,
        )

    return train_perturbation_model(
        model,
        examples(plan.seen),
        config,
        chosen_by=examples(plan.choosing) if plan.choosing else None,
        processor=processor,
    )


def _note_cells(
    result: "TrainingResult", screen: Screen, plan: PredictionPlan, source: "CellSource", start_from: str | None
) -> None:
    """Leave a manifest of the cells beside the weights."""
    from ...corpora.training_manifest import CHOSEN, TrainingManifest
    from ...training.manifest import save_manifest

    def manifest(conditions: Sequence[Condition], **role: str) -> TrainingManifest:
        rows = [screen.rows(condition) for condition in conditions]
        return TrainingManifest.of_rows(source, np.sort(np.concatenate(rows)), **role)

    controls = [Condition(context, screen.control) for context in sorted({one.context for one in plan.seen})]
    chosen = manifest(plan.choosing, role=CHOSEN) if plan.choosing else None
    save_manifest(result, manifest([*plan.seen, *controls]), start_from, chosen=chosen)
