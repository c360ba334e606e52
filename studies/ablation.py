"""What each switch is worth, by repeated cross-validation over train and val.

    python ablation.py --net residualchestnet --data FILE.npz --repeats 2 --folds 5

A base recipe is compared with itself plus each switch alone (minus it, where the base has it), with
all winners together and with whole other recipes of the script (--recipes), on the same folds and
seeds; and with HOG + RBF SVM on the same folds. results/ablation_<net>_<data>/ gets the logits, the
table, a picture and a page. Whatever is finished is stored, and the same command goes on where it
was stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from chestlab.data.phantom import OFFICIAL_COUNTS, PHANTOM_MARK
from chestlab.evaluation import baselines
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.evaluation.verdicts import Estimate, verdict
from chestlab.files.atomic import atomic_write, write_csv
from chestlab.files.errors import InputError, TrainingError, one_line_errors
from chestlab.files.progress import StopSignals
from chestlab.runs.crossval import Configuration, cross_validate, cross_validate_baseline
from chestlab.training.recipe import Recipe, as_dict, in_words
from chestlab.training.weights import PretrainedWeights, read_pretrained
from networks import NETWORKS
from studies.study import Study, comparison_parser, describe

CARDIOMEGALY, PNEUMOTHORAX = OFFICIAL_COUNTS["train"]


@dataclass(frozen=True)
class Switch:
    """One idea.

    Attributes:
        name: what the command line calls it.
        text: what it does, in words.
        changes: of the recipe.
        exact: a base has it only at these very values; else at any but the default.
        backbone: it needs a network that starts from a backbone's weights.
    """

    name: str
    text: str
    changes: Mapping[str, Any]
    exact: bool = False
    backbone: bool = False


SWITCHES = (
    Switch("flip", "mirror every other image", {"flip": 0.5}),
    Switch("rotate", "turn by up to 10 degrees", {"rotate": 10.0}),
    Switch("shift", "shift by up to 10 % of the side", {"translate": 0.1}),
    Switch("zoom", "zoom by up to 10 %", {"scale": 0.1}),
    Switch("vertical-flip", "turn every other image upside down", {"vertical_flip": 0.5}),
    Switch("erase", "black out a rectangle in every fourth image", {"erase": 0.25}),
    Switch("jitter", "change brightness and contrast by up to 20 %", {"jitter": 0.2}),
    Switch("randaugment", "RandAugment's random operations", {"policy": "randaugment"}),
    Switch("autoaugment", "AutoAugment's learned operations", {"policy": "autoaugment"}),
    Switch("mixup", "blend pairs of images and labels", {"mixup": 0.2}),
    Switch("cutmix", "paste a part of another image, blend the labels", {"cutmix": 1.0}),
    Switch("smote", "interpolate images of the rarer class", {"smote": True}),
    Switch(
        "per-image", "standardise each image by its own mean and sd", {"normalize": "per-image"}
    ),
    Switch("size-64", "resize the input to 64 px", {"image_size": 64}, exact=True),
    Switch("size-128", "resize the input to 128 px", {"image_size": 128}, exact=True),
    Switch(
        "pos-weight",
        "weigh the larger class down to balance",
        {"pos_weight": round(CARDIOMEGALY / PNEUMOTHORAX, 3)},
        exact=True,
    ),
    Switch(
        "pos-weight-report",
        "weigh the larger class up, as the reports write it",
        {"pos_weight": round(PNEUMOTHORAX / CARDIOMEGALY, 2)},
        exact=True,
    ),
    Switch("sampler", "draw both classes equally often", {"sampler": "balanced"}),
    Switch("focal", "focal loss, which looks at hard images", {"loss": "focal"}),
    Switch("smoothing", "targets of 0.05 and 0.95", {"label_smoothing": 0.1}),
    Switch(
        "onecycle", "one cycle of the rate", {"schedule": "onecycle", "warmup": 0.3}, exact=True
    ),
    Switch("cosine", "cosine after a warm-up", {"schedule": "cosine", "warmup": 0.1}, exact=True),
    Switch("restarts", "cosine with warm restarts", {"schedule": "restarts"}, exact=True),
    Switch("ema", "average the weights over the last hundred steps", {"ema": 0.99}),
    Switch("last", "take the last epoch, and train on all images", {"monitor": "last"}),
    Switch("drop-path", "leave out whole residual branches", {"drop_path": 0.1}),
    Switch("related", "train on images with further findings, too", {"related": True}),
    Switch("tta-flip", "average with the mirror image's logit", {"tta": "flip"}),
    Switch("tta-warps", "average over the mirror image and random warps", {"tta": "warps"}),
    Switch("layer-decay", "lower rates for earlier layers", {"layer_decay": 0.1}, backbone=True),
    Switch("freeze", "keep the first half of the backbone", {"freeze": 0.5}, backbone=True),
)

BASE, TOGETHER, RECIPE, BASELINE = "base", "together", "recipe", "hog_rbf_svm"

ORDER = ("supported", "undecided", "refuted")  # of the tables: winners first


def usable(model: nn.Module | None = None) -> dict[str, Switch]:
    """The switches that a network can take here, by name; those of any without a ``model``."""
    missing = set()
    if importlib.util.find_spec("imblearn") is None:
        missing.add("smote")
    if model is not None and not hasattr(model, "backbone"):
        missing |= {switch.name for switch in SWITCHES if switch.backbone}
    if model is not None and not any(hasattr(one, "drop_path") for one in model.modules()):
        missing.add("drop-path")
    return {switch.name: switch for switch in SWITCHES if switch.name not in missing}


def offered(setting: Study, base: Configuration) -> dict[str, Switch]:
    """The switches that this network can take on these images and that could change anything."""
    allowed = usable(base.model())
    allowed.pop(f"size-{base.recipe.image_size or setting.data.size}", None)
    if setting.plan.pool.patients is None:
        allowed.pop("related")
    return allowed


def has(recipe: Recipe, switch: Switch) -> bool:
    """Whether a recipe has the switch on."""
    default = Recipe(name="")
    for key, value in switch.changes.items():
        now = getattr(recipe, key)
        other_amount = not switch.exact and not isinstance(value, str)
        if now != value and not (other_amount and now != getattr(default, key)):
            return False
    return True


def turned(recipe: Recipe, switch: Switch) -> Recipe:
    """The recipe with the switch on, or off where it has it: what is then the default."""
    changes = dict(switch.changes)
    if has(recipe, switch):
        changes = {key: getattr(Recipe(name=""), key) for key in changes}
    return dataclasses.replace(recipe, **changes)


class Ablation:
    """A comparison on its way from the flags to the page.

    Args:
        options: of `main`.
        signals: checked between two batches.

    Raises:
        InputError: the flags cannot be used. Nothing has been written.
    """

    def __init__(self, options: argparse.Namespace, signals: StopSignals) -> None:
        self.options, self.signals = options, signals
        suffix = f"_{options.base}" if options.base else ""
        self.setting = Study(options, f"ablation_{options.net}{suffix}")
        self.network, self.base = self.setting.base(options.net, options.base)
        self.recipes = {
            name: self.setting.base(options.net, name)[1].recipe for name in options.recipes
        }
        allowed = offered(self.setting, self.base)
        everything = () if options.recipes else allowed
        wanted = [*(options.switch or everything), *(options.together or ())]
        unknown = [name for name in wanted if name not in allowed]
        if unknown:
            raise InputError(f"--switch {unknown[0]}: allowed are {', '.join(allowed)}")
        self.switches = {name: allowed[name] for name in dict.fromkeys(wanted)}
        self.starts = {path: read_pretrained(str(path), None) for path in options.pretrained}
        self.configurations: dict[str, dict[str, Any]] = {}
        self.logits: dict[str, Any] = {}
        self.failed: dict[str, str] = {}

    def go(self) -> None:
        """Train what is not stored, then write the page."""
        self.store = self.setting.open_store()
        recipe = self.base.recipe
        self._measure(BASE, recipe, "what all others are compared with")
        for name, other in self.recipes.items():
            other = dataclasses.replace(other, name=recipe.name, seed=recipe.seed)
            self._measure(f"recipe {name}", other, f"all of recipe {name}", RECIPE)
        for switch in self.switches.values():
            kind = "removed" if has(recipe, switch) else "added"
            name = f"{'-' if kind == 'removed' else '+'} {switch.name}"
            self._measure(name, turned(recipe, switch), switch.text, kind, switch.name)
        for path in self.options.pretrained:
            text = f"start from {path.stem}"
            self._measure(f"+ {path.stem}", recipe, text, "added", start=self.starts[path])
        self._measure_baseline()
        self._measure_together()
        found = {
            "net": self.options.net,
            "script": self.network.script,
            "recipe_name": self.options.base or list(self.network.recipes)[-1],
            "recipe": as_dict(recipe),
            "recipe_changes": {k: v for k, v in self.setting.changes.items() if k != "seed"},
            **self.setting.about(),
            "configurations": self.configurations,
            "failed": self.failed,
        }
        folder = self.setting.folder
        self._together_so_far().write(folder / "oof.csv")
        atomic_write(folder / "ablation.json", json.dumps(found, indent=2) + "\n")
        write_page(folder)
        print(f"ablation: {folder / 'README.md'}", flush=True)
        if self.setting.data.phantom:
            print(PHANTOM_MARK, flush=True)

    def _measure(
        self,
        name: str,
        recipe: Recipe,
        text: str,
        kind: str = BASE,
        switch: str = "",
        start: PretrainedWeights | None = None,
    ) -> None:
        start = start or self.base.start
        one = dataclasses.replace(self.base, name=name, recipe=recipe, start=start)
        arguments = self.setting.plan, self.store, self.setting.device, self.signals
        try:
            outcome = cross_validate(one, *arguments)
        except TrainingError as error:
            if kind == BASE:
                raise
            print(f"left out: {error}", flush=True)
            self.failed[name] = str(error)
            return
        self._keep(name, outcome, {"text": text, "kind": kind, "switch": switch})
        changes = {k: v for k, v in as_dict(recipe).items() if v != as_dict(self.base.recipe)[k]}
        self.configurations[name]["changes"] = changes

    def _measure_baseline(self) -> None:
        baseline = next(one for one in baselines.BASELINES if one.key == BASELINE)
        outcome = cross_validate_baseline(baseline, self.setting.plan, self.store)
        self._keep(BASELINE, outcome, {"text": baseline.model, "kind": "yardstick"})

    def _keep(self, name: str, outcome: Any, about: Mapping[str, Any]) -> None:
        self.logits[name] = outcome.logits
        costs = {key: getattr(outcome, key) for key in ("seconds", "images", "best_epoch")}
        self.configurations[name] = {**about, **costs}
        auc = self._together_so_far().estimate(name, "auc")
        print(f"{name}: AUC {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})", flush=True)

    def _together_so_far(self) -> OutOfFold:
        return OutOfFold.of(self.setting.plan, self.logits)

    def _measure_together(self) -> None:
        """Base with every winner on and every loser off, or with the switches asked for."""
        oof, chosen = self._together_so_far(), []
        for name, one in self.configurations.items():
            if one["kind"] not in ("added", "removed") or not one["switch"]:
                continue
            found = _gain(oof, name, one["kind"], "auc")
            said = verdict(found, 0, float("inf"))
            pays = said == {"added": "supported", "removed": "refuted"}[one["kind"]]
            if self.options.together is not None:
                pays = one["switch"] in self.options.together
            if pays:
                chosen.append((abs(found.value), one["switch"]))
        recipe, taken = self.base.recipe, []
        for _, name in sorted(chosen, reverse=True):
            switch = self.switches[name]
            if not any(set(switch.changes) & set(other.changes) for other in taken):
                recipe, taken = turned(recipe, switch), [*taken, switch]
        if len(taken) > 1:
            text = ", ".join(switch.name for switch in taken)
            self._measure(TOGETHER, recipe, text, TOGETHER)


def _gain(oof: OutOfFold, name: str, kind: str, measure: str) -> Estimate:
    """What a switch is worth: with it less without it, whichever of the two is the base."""
    pair = (BASE, name) if kind == "removed" else (name, BASE)
    return oof.gain(*pair, measure)


def read(folder: Path) -> tuple[dict[str, Any], OutOfFold]:
    """What `Ablation.go` has written.

    Raises:
        InputError: a file is missing or damaged.
    """
    path = folder / "ablation.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        kinds = {name: one["kind"] for name, one in found["configurations"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"'{path}' is missing, or not of an ablation") from None
    oof = OutOfFold.read(folder / "oof.csv")
    if set(oof.logits) != set(kinds) or BASE not in kinds:
        raise InputError(f"'{folder}': oof.csv and ablation.json are not of the same comparison")
    return found, oof


def table(found: Mapping[str, Any], oof: OutOfFold) -> list[dict[str, Any]]:
    """A row per configuration: base, recipes, all winners, then each switch by its verdict."""
    rows = []
    base_images = _images_seen(found["configurations"][BASE])
    for name, one in found["configurations"].items():
        row = {"configuration": name, "text": one["text"], "kind": one["kind"], "verdict": ""}
        for measure in ("auc", "accuracy"):
            row |= _columns(measure, oof.estimate(name, measure))
        if one["kind"] in ("added", "removed", RECIPE, TOGETHER):
            for measure in ("auc", "accuracy"):
                found_gain = _gain(oof, name, one["kind"], measure)
                row |= _columns(f"{measure}_gain", found_gain)
                if measure == "auc":
                    row["verdict"] = verdict(found_gain, 0, float("inf"))
                    row["auc_gain_detectable"] = found_gain.detectable
        if one["kind"] != "yardstick":
            for measure in ("auc", "accuracy"):
                row |= _columns(f"{measure}_over_hog", oof.gain(name, BASELINE, measure))
        row |= {"seconds": one["seconds"], "images_ratio": _images_seen(one) / base_images}
        rows.append(row)
    order = (BASE, RECIPE, TOGETHER, "added", "yardstick")

    def place(row: Mapping[str, Any]) -> tuple:
        single = row["kind"] in ("added", "removed")
        kind = order.index("added" if single else row["kind"])
        if not single:
            return kind, 0, 0
        return kind, ORDER.index(row["verdict"]), -row["auc_gain"]

    return sorted(rows, key=place)


def _images_seen(configuration: Mapping[str, Any]) -> float:
    """By a network in training, each as often as it was: a cost that no other job changes."""
    return configuration["images"] * (configuration.get("best_epoch") or 1)


def _columns(name: str, one: Estimate) -> dict[str, float]:
    return {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}


def write_page(folder: Path) -> None:
    """Write ``table.csv``, ``gains.png`` and, last, ``README.md`` from what lies in ``folder``.

    Raises:
        InputError: ``oof.csv`` or ``ablation.json`` is missing or damaged.
    """
    from chestlab.reporting.study_plots import draw_gains

    found, oof = read(folder)
    rows = table(found, oof)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(
        folder / "table.csv", columns, [[row.get(key, "") for key in columns] for row in rows]
    )
    named = in_words(found["recipe_name"], found["recipe_changes"])
    eval_model = [row for row in rows if row["verdict"]]
    if eval_model:
        counts = found["data"]["counts"]
        n = sum(sum(of_split.values()) for of_split in counts.values())
        draw_gains(
            [(_label(row), row["verdict"], _gains_of(oof, row)) for row in eval_model],
            folder / "gains.png",
            title=f"{found['net']}: what each switch adds to recipe {named.replace('`', '')}\n"
            f"{found['data']['source']} · train + val n = {n}, {found['repeats']} x "
            f"{found['folds']} folds",
            caption="Right of 0 the switch helps, also where the base has it and it was taken away "
            "(-). Bars: 95 % intervals over patients and repeats; the verdict is on the AUC.",
        )
    atomic_write(folder / "README.md", _page(found, oof, rows))


def _label(row: Mapping[str, Any]) -> str:
    return "all winners" if row["kind"] == TOGETHER else row["configuration"]


def _gains_of(oof: OutOfFold, row: Mapping[str, Any]) -> dict[str, Estimate]:
    name, kind = row["configuration"], row["kind"]
    return {measure: _gain(oof, name, kind, measure) for measure in ("auc", "accuracy")}


def _page(found: Mapping[str, Any], oof: OutOfFold, rows: Sequence[Mapping[str, Any]]) -> str:
    from chestlab.reporting.page import markdown_table

    single = [row for row in rows if row["kind"] in ("added", "removed")]
    named = in_words(found["recipe_name"], found["recipe_changes"])
    parts = [
        f"# {found['net']}: what each switch is worth over recipe {found['recipe_name']}",
        f"Base: recipe {named} of `{found['script']}.py`. {describe(found, oof)}",
    ]
    if any(row["verdict"] for row in rows):
        parts.append("![Gains with their intervals](gains.png)")
    head = ("", "switch", "AUC (95 %)", "accuracy (95 %)", "gain in AUC (95 %)")
    head += ("smallest to be seen", "gain in accuracy (95 %)", "seconds per network", "verdict")
    parts.append(markdown_table(head, [_cells(row) for row in rows], left=2))
    parts.append(
        "`+`: the base with the switch on; `-`: the base has it on, and this is without it. A gain "
        "is with the switch less without it, paired on the same images, folds and seeds. "
        "Supported: the interval of the gain in AUC lies above 0; refuted: below; else undecided, "
        "as is everything with a single repeat. Smallest to be seen: the true gain in AUC found in "
        "80 % of such experiments. Seconds: of the clock, mean of a fold's training; they "
        "compare only where the machine had nothing else to do. In brackets: images seen in "
        f"training, times those of the base. Of {len(single)} switches that did nothing, "
        f"{0.025 * len(single):.1f} would be called supported by chance."
    )
    if any(row["kind"] == TOGETHER for row in rows):
        parts.append(
            "The winners were chosen on these very folds, so the figure of all together is "
            "optimistic to that extent."
        )
    for name, reason in found["failed"].items():
        parts.append(f"`{name}` has no figures: {reason}.")
    over = [row for row in rows if "auc_over_hog" in row]
    over.sort(key=lambda row: (row["kind"] not in (BASE, RECIPE, TOGETHER), -row["auc_over_hog"]))
    parts.append("## Against HOG + RBF SVM on the same folds")
    lines = [
        (
            f"`{row['configuration']}`",
            _signed(row, "auc_over_hog"),
            _signed(row, "accuracy_over_hog"),
            "above" if row["auc_over_hog_low"] > 0 else "not shown to be above",
        )
        for row in over
    ]
    head = ("", "difference in AUC (95 %)", "difference in accuracy (95 %)", "by AUC")
    parts.append(markdown_table(head, lines))
    return "\n\n".join(parts) + "\n"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    own = [
        f"{row[key]:.3f} ({row[f'{key}_low']:.3f} to {row[f'{key}_high']:.3f})"
        for key in ("auc", "accuracy")
    ]
    gains = ["", "", ""]
    if row["verdict"]:
        least = f"{row['auc_gain_detectable']:.3f}"
        gains = [_signed(row, "auc_gain"), least, _signed(row, "accuracy_gain")]
    seconds = f"{row['seconds']:.1f}"
    if row["kind"] != "yardstick":
        seconds += f" (x {row['images_ratio']:.2f})"
    said = f"**{row['verdict']}**" if row["verdict"] else ""
    return (f"`{row['configuration']}`", row["text"], *own, *gains, seconds, said)


def _signed(row: Mapping[str, Any], key: str) -> str:
    return f"{row[key]:+.3f} ({row[f'{key}_low']:+.3f} to {row[f'{key}_high']:+.3f})"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `experiment.run`."""
    with one_line_errors(resume=""), StopSignals() as signals:
        parser = comparison_parser(__doc__.splitlines()[0])
        parser.add_argument("--net", choices=tuple(NETWORKS), required=True)
        parser.add_argument("--base", metavar="RECIPE", help="(default: that of its script)")
        parser.add_argument(
            "--recipes",
            nargs="+",
            default=[],
            metavar="RECIPE",
            help="other recipes of its script to compare with the base, each as a whole",
        )
        parser.add_argument(
            "--switch",
            nargs="+",
            metavar="NAME",
            help="(default: all, without --recipes) " + ", ".join(usable()),
        )
        parser.add_argument(
            "--together",
            nargs="+",
            metavar="NAME",
            help="switches to turn together (default: the winners)",
        )
        parser.add_argument(
            "--pretrained",
            nargs="+",
            type=Path,
            default=[],
            metavar="FILE",
            help="checkpoints of pretrain.py to start from, each a switch of its own",
        )
        Ablation(parser.parse_args(argv), signals).go()


if __name__ == "__main__":
    main()
