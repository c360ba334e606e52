"""Search for a recipe, by cross-validation over train and val; test is never looked at.

    python tune.py --net residualchestnet --data FILE.npz --trials 50

A trial draws learning rate, weight decay, batch size, the network's own dropout and the switches of
ablation.py, and is judged by its mean AUC over the folds; a trial that falls behind is given up
between two folds. The study lies in a file below trained_models/: the same command goes on with it,
also from several processes at once. Needs Optuna: pip install -r requirements-tune.txt
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data.phantom import PHANTOM_MARK
from chestlab.evaluation.metrics import roc_auc
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.files.atomic import atomic_write, write_csv
from chestlab.files.errors import InputError, TrainingError, one_line_errors
from chestlab.files.progress import Interrupted, StopSignals
from chestlab.runs.crossval import Configuration, cross_validate, each_fold
from chestlab.runs.flags import checked
from chestlab.training.recipe import Recipe, as_dict, hyperparameter
from networks import NETWORKS, Network
from studies.ablation import Switch, has, offered, turned
from studies.study import Study, comparison_parser, describe

RATES, DECAYS, BATCHES, LARGEST_DROPOUT = (1e-4, 1e-2), (1e-5, 1e-1), (16, 32, 64), 0.7

AS_BASE = "base"  # the choice that leaves a switch as the base recipe has it

STARTUP_TRIALS = 5  # finished before a trial can be given up

HEARTBEAT = 60  # seconds; a process that has been silent for three of these has died

SHOWN = 10  # trials in the page's table

TRIALS = hyperparameter(50, "", low=1, high=100_000)


class Search:
    """A study: what is drawn, and how good it is.

    Args:
        options: of `main`.
        signals: checked between two batches.

    Raises:
        InputError: the flags cannot be used, or Optuna is not installed. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        try:
            import optuna
        except ImportError:
            raise InputError(
                "Optuna is not installed: pip install -r requirements-tune.txt"
            ) from None
        self.optuna = optuna
        self.options, self.signals = options, signals
        self.setting = Study(options, f"tune_{options.net}")
        self.network, self.base = self.setting.base(options.net, options.base)
        allowed = offered(self.setting, self.base)
        unknown = [name for name in options.switch or () if name not in allowed]
        if unknown:
            raise InputError(f"--switch {unknown[0]}: allowed are {', '.join(allowed)}")
        wanted = allowed if options.switch is None else dict.fromkeys(options.switch)
        self.groups = alternatives([allowed[name] for name in wanted])
        self.trial: Any = None

    @property
    def identity(self) -> dict[str, Any]:
        """What all trials of a study share."""
        return {
            "net": self.options.net,
            "base": {k: v for k, v in as_dict(self.base.recipe).items() if k != "name"},
            "start": self.base.start and self.base.start.sha256,
            "data": self.setting.data.sha256,
            "folds": self.setting.plan.folds,
            "repeats": self.setting.plan.repeats,
        }

    def go(self) -> None:
        """Run the trials asked for, then write the page.

        Raises:
            InputError: the study cannot be read or written, or is another search.
        """
        from sqlalchemy.exc import SQLAlchemyError

        optuna = self.optuna
        self.store = self.setting.open_store()
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        path = (self.setting.models_dir / f"{self.setting.folder.name}.db").resolve()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study = self._open(path)
                self._run(study)
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"the study '{path}' cannot be read or written: {reason}") from None
        self._write(study)

    def _open(self, path: Path) -> Any:
        """The study, made if need be, with the base recipe as its first trial."""
        optuna = self.optuna
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{path.as_posix()}",
            engine_kwargs={"connect_args": {"timeout": 60}},
            heartbeat_interval=HEARTBEAT,
        )
        study = optuna.create_study(
            storage=storage,
            study_name=self.setting.folder.name,
            direction="maximize",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True),
            pruner=optuna.pruners.MedianPruner(STARTUP_TRIALS),
        )
        known = study.user_attrs.get("identity")
        if known is None:
            study.set_user_attr("identity", self.identity)
            study.enqueue_trial(self._base_values())
        elif known != json.loads(json.dumps(self.identity)):
            different = [key for key, value in self.identity.items() if known.get(key) != value]
            raise InputError(
                f"'{path}' is a search with another {different[0]}: use the same, or another --name"
            )
        return study

    def _run(self, study: Any) -> None:
        for _ in range(self.options.trials):
            try:
                study.optimize(self._objective, n_trials=1, catch=(TrainingError,))
            except Interrupted as interruption:
                self._give_back(study)
                raise Interrupted(interruption.signum, interruption.when) from None
            last = study.trials[self.trial.number]
            value = "" if last.value is None else f", AUC {last.value:.3f}"
            print(f"trial {last.number}: {last.state.name.lower()}{value}", flush=True)

    def _give_back(self, study: Any) -> None:
        """Let the next process begin with the trial that was stopped; its folds are stored."""
        states = self.optuna.trial.TrialState
        if self.trial is None or study.trials[self.trial.number].state != states.RUNNING:
            return
        study.tell(self.trial.number, state=states.FAIL)
        study.enqueue_trial(self.trial.params)

    def _base_values(self) -> dict[str, Any]:
        recipe = self.base.recipe
        values = {"lr": recipe.lr, "batch_size": recipe.batch_size}
        values["weight_decay"] = recipe.weight_decay or DECAYS[0]
        values |= {name: one.default for name, one in self._dropouts().items()}
        return values | {name: AS_BASE for name in self.groups}

    def _dropouts(self) -> dict[str, dataclasses.Field]:
        model_options = self.network.model_options.items()
        return {
            n: one
            for n, one in model_options
            if n.startswith("drop") and type(one.default) is float
        }

    def draw(self, trial: Any) -> Configuration:
        """The configuration of a trial; ``trial`` has Optuna's ``suggest_`` methods."""
        recipe = self.base.recipe
        low, high = _around(RATES, recipe.lr)
        changes = {"lr": trial.suggest_float("lr", low, high, log=True)}
        low, high = _around(DECAYS, recipe.weight_decay or DECAYS[0])
        changes["weight_decay"] = trial.suggest_float("weight_decay", low, high, log=True)
        batches = sorted({*BATCHES, recipe.batch_size})
        changes["batch_size"] = trial.suggest_categorical("batch_size", batches)
        arguments = dict(self.base.arguments)
        for name, one in self._dropouts().items():
            high = max(one.default, min(LARGEST_DROPOUT, one.metadata["high"]))
            arguments[name] = trial.suggest_float(name, one.metadata["low"], high)
        recipe = dataclasses.replace(recipe, **changes)
        for name, group in self.groups.items():
            chosen = trial.suggest_categorical(name, [AS_BASE, *_choices(self.base.recipe, group)])
            for label, switch in _choices(self.base.recipe, group).items():
                if label == chosen:
                    recipe = turned(recipe, switch)
        return dataclasses.replace(self.base, recipe=recipe, arguments=arguments)

    def _objective(self, trial: Any) -> float:
        """Mean AUC over all folds of all repeats; gives up between two folds."""
        self.trial = trial
        configuration = dataclasses.replace(self.draw(trial), name=f"trial {trial.number}")
        arguments = configuration, self.setting.plan, self.store, self.setting.device, self.signals
        start, aucs = time.perf_counter(), []
        for _, _, part, found in each_fold(*arguments):
            aucs.append(roc_auc(part.held_out.labels, np.array(found["logits"])))
            trial.report(float(np.mean(aucs)), len(aucs))
            trial.set_user_attr("seconds", time.perf_counter() - start)
            trial.set_user_attr("folds", len(aucs))
            last = len(aucs) == self.setting.plan.folds * self.setting.plan.repeats
            if not last and trial.should_prune():
                raise self.optuna.TrialPruned
        return float(np.mean(aucs))

    def _write(self, study: Any) -> None:
        folder, trials = self.setting.folder, study.trials
        done = [trial for trial in trials if trial.state == self.optuna.trial.TrialState.COMPLETE]
        if not done:
            print("no trial has finished: every one was given up or failed", flush=True)
            return
        best = self.draw(self.optuna.trial.FixedTrial(study.best_params))
        command = reproduce(self.network, best, self.options, self.options.data)
        arguments = best, self.setting.plan, self.store, self.setting.device, self.signals
        named = dataclasses.replace(best, name=f"trial {study.best_trial.number}")
        outcome = cross_validate(named, *arguments[1:])
        oof = OutOfFold.of(self.setting.plan, {named.name: outcome.logits})
        named_file = Path(self.options.data).name  # a page says nothing of this machine's folders
        shown = reproduce(self.network, best, self.options, named_file)
        write_page(folder, self, study, oof, shown)
        print(f"best: {named.name}, AUC {study.best_value:.3f}\n{command}", flush=True)
        print(f"search: {folder / 'README.md'}", flush=True)
        if self.setting.data.phantom:
            print(PHANTOM_MARK, flush=True)


def alternatives(switches: Sequence[Switch]) -> dict[str, list[Switch]]:
    """Switches that exclude each other, by the knob they share: a recipe has only one of each."""
    groups: list[list[Switch]] = []
    for switch in switches:
        meeting = [g for g in groups if any(set(switch.changes) & set(o.changes) for o in g)]
        merged = [one for group in meeting for one in group] + [switch]
        groups = [group for group in groups if group not in meeting] + [merged]
    return {next(iter(group[0].changes)): group for group in groups}


def _choices(base: Recipe, group: Sequence[Switch]) -> dict[str, Switch]:
    """What a group offers besides the base, by name; ``-`` where the base has the switch on."""
    return {f"{'-' if has(base, switch) else '+'} {switch.name}": switch for switch in group}


def _around(ends: tuple[float, float], value: float) -> tuple[float, float]:
    return min(ends[0], value), max(ends[1], value)


def reproduce(
    network: Network, configuration: Configuration, options: argparse.Namespace, data: str
) -> str:
    """The command that trains this recipe on ``data``: what differs from the script's as flags."""
    named = options.base or list(network.recipes)[-1]
    words = ["python", f"{network.script}.py", "--recipe", named]
    if data != "auto":
        words += ["--data", data]
    if options.source_size is not None:
        words += ["--source-size", str(options.source_size)]
    if configuration.start is not None and options.weights != "imagenet":
        words += ["--weights", options.weights]
    before, now = as_dict(network.recipes[named]), as_dict(configuration.recipe)
    different = {key: value for key, value in now.items() if value != before[key]}
    for key, value in configuration.arguments.items():
        if key not in network.model_options or value != network.model_options[key].default:
            different[key] = value
    for key, value in different.items():
        text = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
        words += [f"--{key.replace('_', '-')}", text]
    return shlex.join(words)


def write_page(folder: Path, search: Search, study: Any, oof: OutOfFold, command: str) -> None:
    """Write ``trials.csv``, ``trials.png`` and, last, ``README.md``."""
    from chestlab.reporting.page import markdown_table
    from chestlab.reporting.study_plots import draw_trials

    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "auc": trial.value if trial.value is not None else "",
            "folds": trial.user_attrs.get("folds", 0),
            "seconds": trial.user_attrs.get("seconds", ""),
            **trial.params,
        }
        for trial in study.trials
        if trial.params
    ]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[row.get(key, "") for key in columns] for row in rows]
    write_csv(folder / "trials.csv", columns, cells)
    about, plan = search.setting.about(), search.setting.plan
    draw_trials(
        rows,
        folder / "trials.png",
        title=f"Search for a recipe: {search.options.net}\n{about['data']['source']} · train + val "
        f"n = {len(plan.pool)}, {plan.repeats} x {plan.folds} folds",
    )
    done = sorted((row for row in rows if row["auc"] != ""), key=lambda row: -row["auc"])
    done = [row for row in done if row["state"] == "complete"]
    states = [row["state"] for row in rows]
    best = oof.estimate(next(iter(oof.logits)), "auc")
    numeric = [key for key in columns[5:] if key not in search.groups]
    head = ("trial", "mean AUC", *numeric, "switches")
    lines = [
        (
            str(row["trial"]),
            f"{row['auc']:.3f}",
            *(f"{row[key]:.3g}" for key in numeric),
            ", ".join(f"`{row[key]}`" for key in search.groups if row.get(key) != AS_BASE),
        )
        for row in done[:SHOWN]
    ]
    atomic_write(
        folder / "README.md",
        "\n\n".join(
            [
                f"# {search.options.net}: search for a recipe",
                f"{len(rows)} trials: {states.count('complete')} finished, "
                f"{states.count('pruned')} given up between two folds. "
                f"{describe(about, oof)}",
                f"The best has a mean AUC of {best.value:.3f} ({best.low:.3f} to {best.high:.3f}). "
                f"It is the best of {len(rows)} on these very folds, so the figure is optimistic: "
                "what it is worth shows on other folds, and once on test.",
                f"```sh\n{command}\n```",
                "![Trials](trials.png)",
                markdown_table(head, lines),
            ]
        )
        + "\n",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `experiment.run`."""
    with one_line_errors(resume=""), StopSignals() as signals:
        parser = comparison_parser(__doc__.splitlines()[0])
        parser.set_defaults(repeats=1)
        parser.add_argument("--net", choices=tuple(NETWORKS), required=True)
        parser.add_argument("--base", metavar="RECIPE", help="(default: that of its script)")
        parser.add_argument(
            "--trials",
            type=checked(TRIALS),
            default=TRIALS.default,
            metavar="N",
            help="of this process; those of earlier ones are kept (default: %(default)s)",
        )
        parser.add_argument(
            "--switch",
            nargs="*",
            metavar="NAME",
            help="to choose among (default: all of ablation.py)",
        )
        Search(parser.parse_args(argv), signals).go()


if __name__ == "__main__":
    main()
