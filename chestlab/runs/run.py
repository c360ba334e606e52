"""From the command line to the results: what every training script calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial

from torch import nn

from chestlab.files import notebook
from chestlab.files.errors import InputError, one_line_errors
from chestlab.files.progress import Interrupted, Progress, StopSignals
from chestlab.files.run_files import RunFiles
from chestlab.runs.card_memory import warn_of_memory
from chestlab.runs.checkpoints import Checkpoints
from chestlab.runs.ensemble import Ensemble
from chestlab.runs.experiment import Experiment
from chestlab.runs.flags import parse
from chestlab.runs.learning_rate import find_learning_rate
from chestlab.runs.report_files import write_report
from chestlab.runs.results import draw_curves, print_summary, write_results
from chestlab.training.distributed import Processes
from chestlab.training.openmp import cores_are_shared
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer
from chestlab.training.weights import read_pretrained


def run(
    model: Callable[..., nn.Module],
    recipes: Mapping[str, Recipe],
    argv: Sequence[str] | None = None,
    imagenet_url: str | Callable[..., str] | None = None,
    model_options: Mapping[str, dataclasses.Field] | None = None,
    findings: bool = False,
    subfolder: str = "",
) -> RunFiles | None:
    """Run a training script: parse the flags, train or resume, evaluate, draw.

    Ends the process with status 2 for wrong input, 130 or 143 when interrupted (resumable), 1 for
    any other failure, each with one line on stderr. In a notebook an error ends the cell with that
    line, and a finished run's pictures are shown below it. Under ``torchrun`` several processes
    train one network together.

    Args:
        model: class of the network, or a function that makes it: (N, 1, H, W) to logits (N,).
        recipes: by the name ``--recipe`` knows them; the first one is the default.
        argv: flags, by default the process's own.
        imagenet_url: of torchvision's weights, for a model whose constructor takes
            `weights.PretrainedWeights` first and which has a ``backbone``; a callable gets the
            values of ``model_options`` and returns the address. Any other model can start from a
            checkpoint of its own kind.
        model_options: arguments of the model's constructor that are flags, made with
            `recipe.hyperparameter`.
        findings: the constructor takes ``outputs``, so that ``--task findings`` can be asked for.
        subfolder: inside both output folders, for a member of an ensemble or a study.

    Returns:
        Where everything lies; None for an ensemble or a search for the learning rate.
    """
    processes = Processes.from_environment()
    with one_line_errors(), StopSignals() as signals, processes.together(signals):
        options = parse(
            recipes,
            argv,
            has_imagenet=imagenet_url is not None,
            model_options=model_options,
            findings=findings,
        )
        read_weights = None
        if imagenet_url is not None or options.weights != "none":
            if callable(imagenet_url):
                imagenet_url = imagenet_url(**options.model_arguments)
            # Read once, also for the members of an ensemble.
            read_weights = cache(partial(read_pretrained, options.weights, imagenet_url))
        make = partial(Experiment, model, read_weights=read_weights, processes=processes)
        if processes.size > 1 and (options.members or options.folds or options.find_lr):
            raise InputError("--members, --folds and --find-lr are for one process, not torchrun")
        if options.members or options.folds:
            ensemble = Ensemble(make, options)
            ensemble.run(partial(train, signals=signals))
            notebook.show(ensemble.files.folder.glob("*.png"))
            return None
        with processes.first_goes_first():  # the others find the first one's download and cache
            experiment = make(options, subfolder=subfolder)
        if options.find_lr:
            find_learning_rate(experiment, signals)
            notebook.show(experiment.final.folder.glob("lr_finder.png"))
            return None
        train(experiment, signals)
        if not subfolder:
            notebook.show(experiment.final.folder.glob("*.png"))
    return experiment.final


SHARED_CORES = (
    "other programs want the processor: with the environment variable OMP_NUM_THREADS=1 epochs "
    "may be shorter (docs/training.md, A busy machine)"
)


def train(experiment: Experiment, signals: StopSignals) -> None:
    """Train, evaluate and draw what is not done yet, holding the lock of the run's name."""
    with experiment.claim() as (unfinished, state):
        if not unfinished:
            write_report(experiment, missing=True)
            return
        warn_of_memory(experiment)
        checkpoints = Checkpoints(experiment)
        images, val_images = experiment.tensors()
        stages = experiment.recipe.stages
        trainer: Trainer | None = None
        for number in range(state["stage"] if state else 0, len(stages)):
            trainer = Trainer(
                experiment.build,
                stages[number],
                images,
                val_images,
                frozen=number < len(stages) - 1,
                previous=trainer,
                processes=experiment.processes,
            )
            if state is not None:
                checkpoints.restore(trainer, state)
                state = None
            print(experiment.describe(trainer), flush=True)
            if trainer.device.type == "cpu" and cores_are_shared():
                print(SHARED_CORES, flush=True)
            train_stage(trainer, number, checkpoints, signals)
            if trainer.frozen:
                checkpoints.save_weights(experiment.files.stage1, trainer)
        if experiment.processes.first and trainer is not None:
            print("evaluating, and drawing the pictures", flush=True)
            write_results(experiment, trainer, checkpoints)
            experiment.finish()
            write_report(experiment)
            if checkpoints.events is not None:
                checkpoints.events.add_pictures(experiment.final.folder, len(trainer.history))
            print_summary(experiment.final)


def train_stage(
    trainer: Trainer, number: int, checkpoints: Checkpoints, signals: StopSignals
) -> None:
    """Train one stage of a recipe to its end, keeping every epoch that is completed.

    Raises:
        Interrupted: a signal has come; says after which epoch.
    """
    on_interruption = partial(draw_curves, checkpoints.experiment)
    with watched(trainer, signals, on_interruption) as progress:

        def on_epoch(row: Mapping[str, float]) -> None:
            checkpoints.save(trainer, number)
            chosen = trainer.recipe.monitor != "last"
            progress.end_of_epoch(row, trainer.best_epoch if chosen else None)
            signals.check()

        with checkpoints.none_waiting(trainer):
            trainer.fit(on_epoch)


@contextmanager
def watched(
    trainer: Trainer,
    signals: StopSignals,
    on_interruption: Callable[[Trainer], None] = lambda trainer: None,
) -> Iterator[Progress]:
    """Context of a training with a progress bar that Ctrl-C stops between two steps.

    Args:
        trainer: gets its ``on_step``.
        signals: checked after every step.
        on_interruption: called where at least one epoch is complete.

    Yields:
        the progress, to be told of each epoch's end.

    Raises:
        Interrupted: a signal has come; says after which epoch.
    """
    done, epochs = len(trainer.history), trainer.first_epoch + trainer.recipe.epochs
    recipe = trainer.recipe
    stops_early = recipe.monitor != "last" and recipe.patience < recipe.epochs
    progress = Progress(epochs, trainer.steps_per_epoch, done, stops_early)

    def on_step() -> None:
        signals.check()
        progress.step()

    trainer.on_step = on_step
    try:
        with signals.deferred():
            yield progress
    except Interrupted as interruption:
        if trainer.history:
            on_interruption(trainer)
        done = len(trainer.history)
        when = f" after epoch {done}" if done else " in the first epoch"
        raise Interrupted(interruption.signum, when, kept=bool(done)) from None
    finally:
        progress.close()
