"""What a trained network costs and keeps outside of PyTorch: ONNX, 8-bit integers, pruning.

    python -m studies.deployment --data FILE.npz

Every network of `DEPLOYED` is trained on the fresh folds with its frozen recipe. Of each fold's
network the files that `export.py` would write, in float32 and with 8-bit integers, predict the
patients held out; so do files of the pruned network, after a short training of what is left. Sizes
and times per picture are measured of all networks side by side, on a processor that is idle.

results/studies/deployment_<data>/ gets logits, tables, picture and a page in two languages. Trained
folds are stored, and the same command continues where it was stopped. ``--only NAME`` trains some
networks alone; of the others the page has the costs, with untrained weights. ``--costs`` measures
sizes and times again and trains nothing. ``--redraw FOLDER`` writes the page again.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from chestlab.data.folds import FRESH_FOLDS_SEED
from chestlab.evaluation.out_of_fold import NETWORK_KIND
from chestlab.files.errors import one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.runs.crossval import Configuration
from chestlab.training import onnx_model
from chestlab.training.pruning import require_torch_pruning
from chestlab.training.recipe import as_dict, recipe_hash
from studies import deployment_costs
from studies.deployment_networks import (
    DEPLOYED,
    ORDER,
    Deployed,
    DeployedFold,
    arithmetic,
    checkpoint_bytes,
    int8_of,
    variants,
)
from studies.deployment_page import BASE, TORCH, write_page
from studies.fresh_folds import count_use
from studies.frozen_recipes import frozen_configuration
from studies.network_names import network_name
from studies.stored_configurations import StoredConfigurations, known_first
from studies.study import add_only, comparison_parser

REPEATS = 1

ZIP_LEVEL = 9


class Deployment(StoredConfigurations):
    """Trains, prunes and exports networks on the fresh folds, then writes the pages.

    Args:
        options: of `main`.
        signals: checked after every optimiser step.

    Raises:
        InputError: the flags cannot be used, or a library is missing. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        onnx_model.require_onnx()
        require_torch_pruning()
        super().__init__(options, signals, "deployment", FRESH_FOLDS_SEED, REPEATS)
        self.costs: dict[str, Any] | None = None

    def run(self) -> None:
        """Train what is not stored, measure costs where there are none yet, and write the pages."""
        self.begin()
        if not self.options.costs:
            for deployed in DEPLOYED:
                if deployed.name in self.options.only:
                    self._measure(deployed)
        if self.options.costs or self.costs is None:
            costs = self._measure_costs()
            with self.alone():
                self.take_over()
                self.costs = costs
                self.write_results()
        self.finish(write_page)

    def _configuration(self, deployed: Deployed) -> tuple[str, Configuration]:
        """Name of its script, and what is trained."""
        network, configuration = frozen_configuration(self, deployed)
        return network.script, configuration

    def _measure(self, deployed: Deployed) -> None:
        """Train and export a network on every fold, and predict the images held out."""
        script, configuration = self._configuration(deployed)
        for variant, (part, precision) in variants(deployed).items():
            logits = np.full((self.splits.repeats, len(self.splits.pool)), np.nan)
            quantised = []
            for repeat in range(self.splits.repeats):
                for number in range(self.splits.folds):
                    of_fold = DeployedFold(self, configuration, repeat, number)
                    result = of_fold.evaluate(part, precision)
                    logits[repeat, of_fold.fold.rows] = result["logits"]["file"]
                    quantised += [result["int8"]] if result["int8"] else []
            about = {
                "kind": NETWORK_KIND,
                "network": deployed.name,
                "variant": variant,
                "model": network_name(configuration),
                "script": script,
                "recipe_name": deployed.recipe,
                "recipe_changes": dict(deployed.changes),
                "recipe": recipe_hash(as_dict(configuration.recipe)),
                "int8": quantised,
            }
            name = f"{deployed.name}_{variant}"
            count_use(self, name, about, logits, "" if variant == BASE else variant)
            self.keep({name: (about, logits)})

    def _measure_costs(self) -> dict[str, Any]:
        """Sizes and times of all networks; files are made first, so that times come in one go."""
        networks = []
        for deployed in DEPLOYED:
            _, configuration = self._configuration(deployed)
            of_fold = DeployedFold(self, configuration, 0, 0)
            print(f"{deployed.name}: files to time", flush=True)
            networks.append((deployed, of_fold, of_fold.files_of_one_view(deployed)))
            self.signals.check()
        images = self.splits.pool.images
        images = np.resize(images, (deployment_costs.BATCHES[-1], *images.shape[1:]))
        rows = []
        for deployed, of_fold, files in networks:
            print(f"{deployed.name}: times", flush=True)
            rows += self._cost_rows(deployed, of_fold, files, images)
            self.signals.check()
        return {"machine": deployment_costs.machine(), "rows": rows}

    def _cost_rows(
        self,
        deployed: Deployed,
        of_fold: DeployedFold,
        files: Mapping[str, Path],
        images: np.ndarray,
    ) -> list[dict[str, Any]]:
        """A row for PyTorch and for each file of a network."""
        import onnx

        parts = {variant: part for variant, (part, _) in variants(deployed).items()}
        models = {part: of_fold.part(part, train=False) for part in {"", *parts.values()}}
        contents = {variant: path.read_bytes() for variant, path in files.items()}
        trained = {TORCH: of_fold.trained(models[""], "none")}
        timed = deployment_costs.times(trained, contents, images)
        rows = []
        for variant in (TORCH, *files):
            model = models[parts.get(variant, "")]
            row = {"network": deployed.name, "trained": of_fold.is_trained, "variant": variant}
            row |= {"input_size": of_fold.recipe.image_size or self.data.size}
            row |= arithmetic(model, images, of_fold.recipe)
            if variant == TORCH:
                row["bytes"] = checkpoint_bytes(model)
            else:
                content = contents[variant]
                row |= {"bytes": len(content), "zipped": len(zlib.compress(content, ZIP_LEVEL))}
                if quantised := int8_of(onnx.load_from_string(content)):
                    row["in_float"] = f"{len(quantised['in_float'])} / {quantised['layers']}"
            for time in (time for time in timed if time["variant"] == variant):
                where = f"batch{time['batch']}_threads{time['threads']}"
                apart = ("variant", "batch", "threads")
                row |= {f"{where}_{key}": time[key] for key in time if key not in apart}
            rows.append(row)
        return rows

    def take_over(self) -> dict[str, Any] | None:
        summary = super().take_over()
        if summary is not None:
            self.costs = summary["costs"]
        return summary

    def summary(self) -> dict[str, Any]:
        return {**super().summary(), "costs": self.costs}

    def about(self) -> dict[str, Any]:
        return {**super().about(), "first_seed": self.splits.first_seed}

    def in_order(self, names: Collection[str]) -> list[str]:
        files = [f"{deployed.name}_{variant}" for deployed in DEPLOYED for variant in ORDER]
        return known_first(names, files)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `chestlab.runs.run`."""
    names = tuple(deployed.name for deployed in DEPLOYED)
    with one_line_errors(resume=""), StopSignals() as signals:
        title = __doc__.splitlines()[0]
        parser = comparison_parser("deployment", title, write_page, frozen=True)
        add_only(parser, names)
        parser.add_argument(
            "--costs", action="store_true", help="train nothing; measure sizes and times again"
        )
        parser.set_defaults(repeats=REPEATS)
        Deployment(parser.parse_args(argv), signals).run()


if __name__ == "__main__":
    main()
