"""Search for a recipe, by cross-validation over train and val; test is never looked at.

    python -m studies.tune --net residualchestnet --data FILE.npz --trials 50

A trial draws learning rate, weight decay, batch size, the network's dropout and the switches of an
ablation; its value is the mean AUC over the folds. A trial that falls behind is stopped between two
folds. The search is kept in a file below trained_models/: the same command continues it, also from
several processes and machines at once. Needs Optuna: pip install -r requirements-tune.txt
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shlex
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.evaluation.metrics import roc_auc
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.files import claims
from chestlab.files.errors import InputError, TrainingError, one_line_errors
from chestlab.files.progress import Interrupted, StopSignals
from chestlab.reporting.page import Wording
from chestlab.runs.crossval import Configuration, each_fold
from chestlab.runs.flags import checked
from chestlab.training.recipe import Recipe, as_dict, hyperparameter
from networks import NAMES, Network
from studies.stored_results import read_results
from studies.study import (
    Study,
    about_images,
    comparison_parser,
    interval_cell,
    interval_columns,
    write_readmes,
    write_table,
)
from studies.switches import Switch, is_on, offered, select, toggled

RATES, DECAYS, BATCHES, LARGEST_DROPOUT = (1e-4, 1e-2), (1e-5, 1e-1), (16, 32, 64), 0.7

AS_BASE = "base"  # the choice that leaves a switch as the base recipe has it

STARTUP_TRIALS = 5  # finished before a trial can be given up

SHOWN = 10  # trials in the page's table

TRIALS = hyperparameter(50, "", low=1, high=100_000)

REPEATS = 1


class Search(Study):
    """What a trial draws, and how good it is.

    Args:
        options: of `main`.
        signals: checked after every optimiser step.

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
        super().__init__(options, signals, f"tune_{options.net}", repeats=REPEATS)
        self.network, self.base = self.configuration(options.net, options.base)
        allowed = offered(self, self.base)
        wanted = select(allowed, allowed if options.switch is None else options.switch)
        self.groups = alternatives(list(wanted.values()))
        self.trial: Any = None

    @property
    def identity(self) -> dict[str, Any]:
        """What all trials of a search share."""
        return {
            "net": self.options.net,
            "base": {k: v for k, v in as_dict(self.base.recipe).items() if k != "name"},
            "start": self.base.pretrained and self.base.pretrained.sha256,
            "data": self.data.sha256,
            "folds": self.splits.folds,
            "repeats": self.splits.repeats,
        }

    def run(self) -> None:
        """Run the trials asked for, then write the page.

        Raises:
            InputError: the search cannot be read or written, or is another one.
        """
        optuna = self.optuna
        self.open_store()
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        path = (self.models_dir / f"{self.folder.name}.journal").resolve()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = self._open(path)
            self._run(study)
        self._write(study)

    def _open(self, path: Path) -> Any:
        """Optuna's study, made if need be, with the base recipe as its first trial."""
        with claims.turn(self._claim("begin")):
            return self._open_alone(path)

    def _storage(self, path: Path) -> Any:
        """A journal, which several machines can write on NFS (O_EXCL).

        Raises:
            InputError: it cannot be read.
        """
        storages = self.optuna.storages
        journal = storages.journal
        lock = journal.JournalFileOpenLock(str(path))
        try:
            return storages.JournalStorage(journal.JournalFileBackend(str(path), lock_obj=lock))
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"the search '{path}' cannot be read: it is damaged; move it away to start anew"
            ) from None

    def _open_alone(self, path: Path) -> Any:
        optuna = self.optuna
        study = optuna.create_study(
            storage=self._storage(path),
            study_name=self.folder.name,
            direction="maximize",
            load_if_exists=True,
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

    def _sampler(self, trial: int) -> Any:
        """Of a trial's number: one process proposes the same again, stopped between two or not."""
        seed = self.base.recipe.seed + trial
        return self.optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed)

    def _run(self, study: Any) -> None:
        for _ in range(self.options.trials):
            self._run_trial(study)
            last = study.trials[self.trial.number]
            value = "" if last.value is None else f", AUC {last.value:.3f}"
            print(f"trial {last.number}: {last.state.name.lower()}{value}", flush=True)

    def _claim(self, name: object) -> Path:
        return self.models_dir / f"{self.folder.name}_{name}.claim"

    def _run_trial(self, study: Any) -> None:
        """Run one trial; first those that died with their process are given back."""
        states = self.optuna.trial.TrialState
        with contextlib.ExitStack() as held:
            with claims.turn(self._claim("begin")):  # so that no trial runs without a claim
                for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
                    with claims.claim(self._claim(f"trial{trial.number}")) as holder:
                        if not holder:
                            self._give_back(study, trial)
                study.sampler = self._sampler(len(study.get_trials(deepcopy=False)))
                self.trial = study.ask()
                held.enter_context(claims.claim(self._claim(f"trial{self.trial.number}")))
            try:
                study.tell(self.trial, self._objective(self.trial))
            except self.optuna.TrialPruned:
                study.tell(self.trial, state=states.PRUNED)
            except TrainingError:
                study.tell(self.trial, state=states.FAIL)
            except Interrupted:
                self._give_back(study, self.trial)
                raise

    def _give_back(self, study: Any, trial: Any) -> None:
        """Let the next process begin with a trial that was stopped; its folds are stored."""
        study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params)

    def _base_values(self) -> dict[str, Any]:
        recipe = self.base.recipe
        values = {"lr": recipe.lr, "batch_size": recipe.batch_size}
        values["weight_decay"] = recipe.weight_decay or DECAYS[0]
        values |= {name: field.default for name, field in self._dropouts().items()}
        return values | {name: AS_BASE for name in self.groups}

    def _dropouts(self) -> dict[str, dataclasses.Field]:
        return {
            name: field
            for name, field in self.network.model_options.items()
            if name.startswith("drop") and type(field.default) is float
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
        for name, field in self._dropouts().items():
            high = max(field.default, min(LARGEST_DROPOUT, field.metadata["high"]))
            arguments[name] = trial.suggest_float(name, field.metadata["low"], high)
        recipe = dataclasses.replace(recipe, **changes)
        for name, group in self.groups.items():
            chosen = trial.suggest_categorical(name, [AS_BASE, *_choices(self.base.recipe, group)])
            for label, switch in _choices(self.base.recipe, group).items():
                if label == chosen:
                    recipe = toggled(recipe, switch)
        return dataclasses.replace(self.base, recipe=recipe, arguments=arguments)

    def _objective(self, trial: Any) -> float:
        """Mean AUC over all folds of all repeats; may be stopped between two folds."""
        configuration = dataclasses.replace(self.draw(trial), name=f"trial {trial.number}")
        arguments = configuration, self.splits, self.store, self.device, self.signals
        start, aucs = time.perf_counter(), []
        for _, fold, result in each_fold(*arguments):
            aucs.append(roc_auc(fold.held_out.labels, np.array(result["logits"])))
            trial.report(float(np.mean(aucs)), len(aucs))
            trial.set_user_attr("seconds", time.perf_counter() - start)
            trial.set_user_attr("folds", len(aucs))
            last = len(aucs) == self.splits.folds * self.splits.repeats
            if not last and trial.should_prune():
                raise self.optuna.TrialPruned
        return float(np.mean(aucs))

    def _write(self, study: Any) -> None:
        done = [t for t in study.trials if t.state == self.optuna.trial.TrialState.COMPLETE]
        if not done:
            print("no trial has finished: every one was stopped or failed", flush=True)
            return
        oof, finished = OutOfFold.of(self.splits, {}), {}
        for trial in done:
            configuration = self.draw(self.optuna.trial.FixedTrial(trial.params))
            finished[trial.number] = dataclasses.replace(
                configuration, name=f"trial {trial.number}"
            )
            outcome = self.cross_validate(finished[trial.number])  # its folds are stored
            oof.add(f"trial {trial.number}", outcome.logits)
        best = finished[study.best_trial.number]
        command = reproduce(self.network, best, self.options, self.options.data)
        file_name = Path(self.options.data).name  # a page names none of this machine's folders
        summary = {
            "net": self.options.net,
            **self.about(),
            "command": reproduce(self.network, best, self.options, file_name),
            "best": best.name,
            "groups": list(self.groups),
            "trials": trial_rows(study),
            "configurations": {name: {"kind": "trial"} for name in oof.logits},
        }
        print(f"best: {best.name}, AUC {study.best_value:.3f}\n{command}", flush=True)
        self.write("tune", summary, oof, write_page)


def trial_rows(study: Any) -> list[dict[str, Any]]:
    """What the trials of Optuna's study drew and reached, as plain values."""
    return [
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


def alternatives(switches: Sequence[Switch]) -> dict[str, list[Switch]]:
    """Switches that exclude each other, by the hyperparameter they share."""
    groups: list[list[Switch]] = []
    for switch in switches:
        meeting = [g for g in groups if any(set(switch.changes) & set(o.changes) for o in g)]
        merged = [member for group in meeting for member in group] + [switch]
        groups = [group for group in groups if group not in meeting] + [merged]
    return {next(iter(group[0].changes)): group for group in groups}


def _choices(base: Recipe, group: Sequence[Switch]) -> dict[str, Switch]:
    """What a group offers besides the base, by name; ``-`` where the base has the switch on."""
    return {f"{'-' if is_on(base, switch) else '+'} {switch.name}": switch for switch in group}


def _around(ends: tuple[float, float], value: float) -> tuple[float, float]:
    return min(ends[0], value), max(ends[1], value)


def reproduce(
    network: Network, configuration: Configuration, options: argparse.Namespace, data: str
) -> str:
    """The command that trains this recipe on ``data``: what differs from the script's as flags."""
    named = options.base or next(iter(network.recipes))
    words = ["python", f"{network.script}.py", "--recipe", named]
    if data != "auto":
        words += ["--data", data]
    if options.source_size is not None:
        words += ["--source-size", str(options.source_size)]
    if configuration.pretrained is not None and options.weights != "imagenet":
        words += ["--weights", options.weights]
    before, now = as_dict(network.recipes[named]), as_dict(configuration.recipe)
    now["cpu_bf16"] = before["cpu_bf16"]  # which no flag sets, it follows the network
    different = {key: value for key, value in now.items() if value != before[key]}
    for key, value in configuration.arguments.items():
        if key not in network.model_options or value != network.model_options[key].default:
            different[key] = value
    for key, value in different.items():
        text = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
        words += [f"--{key.replace('_', '-')}", text]
    return shlex.join(words)


def write_page(folder: Path) -> None:
    """Write ``trials.csv``, ``trials.png`` and, last, the page in both languages.

    Raises:
        InputError: ``oof.csv`` or ``tune.json`` is missing or damaged.
    """
    from chestlab.reporting.study_plots import draw_trials

    summary, oof = _read(folder)
    rows, best = summary["trials"], summary["best_auc"]
    columns = write_table(folder / "trials.csv", rows)
    draw_trials(
        rows,
        folder / "trials.png",
        title=f"Search for a recipe of {summary['net']}\n{summary['data']['source']} · train + val "
        f"n = {summary['images']}, {summary['repeats']} x {summary['folds']} folds",
    )
    numeric = [key for key in columns[5:] if key not in summary["groups"]]
    states = [row["state"] for row in rows]

    def values(wording: Wording) -> dict[str, Any]:
        return {
            **{key: summary[key] for key in ("net", "command")},
            "trials": len(rows),
            "finished": states.count("complete"),
            "pruned": states.count("pruned"),
            "best": interval_cell(wording, best, "auc"),
            "columns": numeric,
            "rows": _lines(wording, summary, numeric),
            **_answer(wording, summary),
        }

    write_readmes(folder, "tune", summary, oof, values)


def _read(folder: Path) -> tuple[dict[str, Any], OutOfFold | None]:
    """Summary and logits of a search; no logits where the summary tells what the page says of them.

    Raises:
        InputError: ``oof.csv`` or ``tune.json`` is missing or damaged.
    """
    path = folder / "tune.json"
    if path.exists() and not (folder / "oof.csv").exists():
        with contextlib.suppress(ValueError):
            summary = json.loads(path.read_text(encoding="utf-8"))
            if "best_auc" in summary:
                return summary, None
    summary, oof = read_results(folder, "tune", "configurations")
    best = interval_columns("auc", oof.estimate(summary["best"], "auc"))
    return {**summary, **about_images(oof), "best_auc": best}, oof


def _done(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The finished trials, the best first."""
    done = [row for row in summary["trials"] if row["state"] == "complete"]
    return sorted(done, key=lambda row: -row["auc"])


def _answer(wording: Wording, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What the page begins with: the best trial and, where it was finished, the base recipe's."""
    best, *others = _done(summary)
    base = [row for row in (best, *others) if row["trial"] == 0]  # see `Search._open`
    return {
        "best_trial": best["trial"],
        "best_auc": wording.number(best["auc"]),
        "base_trial": base[0]["trial"] if base else "",
        "base_auc": wording.number(base[0]["auc"]) if base else "",
    }


def _lines(
    wording: Wording, summary: Mapping[str, Any], numeric: Sequence[str]
) -> list[tuple[str, ...]]:
    """The rows of the page's table."""
    groups = summary["groups"]
    return [
        (
            str(row["trial"]),
            wording.number(row["auc"]),
            *(wording.number(row[key], ".3g") for key in numeric),
            ", ".join(f"`{row[key]}`" for key in groups if row.get(key) != AS_BASE),
        )
        for row in _done(summary)[:SHOWN]
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    with one_line_errors(resume=""), StopSignals() as signals:
        parser = comparison_parser("tune", __doc__.splitlines()[0], write_page)
        parser.set_defaults(repeats=REPEATS)
        parser.add_argument("--net", choices=NAMES, required=True)
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
            help="to choose among (default: all that studies.ablation knows)",
        )
        Search(parser.parse_args(argv), signals).run()


if __name__ == "__main__":
    main()
