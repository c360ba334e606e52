"""What helped, for the first page of results: gains that hold after Holm's correction."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chestlab.evaluation.out_of_fold import NETWORK_KIND
from chestlab.reporting.fresh_results import FreshFolds
from chestlab.reporting.front_messages import SWITCHES_IN_INDONESIAN
from chestlab.reporting.lab_experiments import EXPERIMENTS
from chestlab.reporting.page import Wording


class Gains:
    """What has a gain after Holm's correction, on fresh folds and in studies of switches.

    Args:
        wording: language of the sentence.
        fresh: study on fresh folds, or None.
        ablations: folders of studies of switches.
    """

    def __init__(
        self, wording: Wording, fresh: FreshFolds | None, ablations: Sequence[Path]
    ) -> None:
        self.wording, self.fresh, self.ablations = wording, fresh, ablations

    def sentence(self) -> str:
        """All gains in one sentence, those on fresh folds first; empty without a study."""
        gains: list[tuple[int, float, str]] = []
        studies, of_fresh = 0, set()
        for row in _rows_of(self.fresh.folder / "comparisons.csv") if self.fresh else ():
            values = self._two_recipes(row)
            if row["verdict_holm"] == "supported" and values:
                of_fresh.add((values["net"], values["switch"]))
                text = self._gain("helped_fresh", row, values)
                gains.append((0, -float(row["auc_gain"]), text))
        for folder in self.ablations:
            rows = _rows_of(folder / "table.csv")
            studies += bool(rows)
            for row in rows:
                if row["kind"] == "together":  # of winners on the same folds: its p is too small
                    continue
                values = self._switch(folder, row)
                known = (values["net"], values["switch"]) in of_fresh
                if row.get("verdict_holm") == "supported" and not known:
                    text = self._gain("helped_choice", row, values)
                    gains.append((1, -float(row["auc_gain"]), text))
        if not gains:
            return self.wording.say("helped_nothing") if studies else ""
        texts = "; ".join(text for _, _, text in sorted(gains))
        return self.wording.say("helped", gains=texts)

    def _switch(self, folder: Path, row: Mapping[str, str]) -> dict[str, str]:
        """The network that a switch was tried on, and the switch in words."""
        about = json.loads((folder / "ablation.json").read_text(encoding="utf-8"))
        name = row["configuration"].removeprefix("- ").removeprefix("+ ")
        text = row["text"]
        if self.wording.language != "en":
            text = SWITCHES_IN_INDONESIAN.get(name, "")
        switch = self.wording.say("switch_single", name=name, text=text) if text else f"`{name}`"
        if row["kind"] == "recipe":
            recipes = {"name": f"`{name.removeprefix('recipe ')}`"}
            recipes["base"] = f"`{about['recipe_name']}`"
            switch = self.wording.say("switch_recipe", **recipes)
        if about.get("recipe_changes"):
            switch = self.wording.say("switch_in", switch=switch, recipe=self._recipe(about))
        return {"net": self._numbered_net(about["net"]), "switch": switch}

    def _numbered_net(self, net: str) -> str:
        """Number and title of a network that studies call ``net``, or that has this class."""
        for model, of in EXPERIMENTS.items():
            if net in (model, of.title.replace("-", "").lower()):
                name = {"number": of.number, "name": of.title}
                return self.wording.say("experiment_in_sentence", **name)
        return f"`{net}`"

    def _two_recipes(self, row: Mapping[str, str]) -> dict[str, str]:
        """The network whose recipes were compared on the fresh folds, and the two.

        Empty where two networks were compared, or a network with something else.
        """
        assert self.fresh is not None
        known = self.fresh.configurations
        one, other = (known.get(row[key], {}) for key in ("configuration", "over"))
        networks = one.get("kind") == other.get("kind") == NETWORK_KIND
        if not networks or one["model"] != other["model"]:
            return {}
        recipes = {"name": self._recipe(one), "base": self._recipe(other)}
        net = self._numbered_net(one["model"])
        return {"net": net, "switch": self.wording.say("switch_recipe", **recipes)}

    def _recipe(self, about: Mapping[str, Any]) -> str:
        """The recipe of a row of the fresh folds, with what was changed in it."""
        name = about["recipe_name"]
        changes = ", ".join(f"{key} {value}" for key, value in about["recipe_changes"].items())
        say = self.wording.say
        return say("changed_recipe", name=name, changes=changes) if changes else f"`{name}`"

    def _gain(self, key: str, row: Mapping[str, str], values: Mapping[str, str]) -> str:
        value, low, high = (float(row[f"auc_gain{end}"]) for end in ("", "_low", "_high"))
        gain = self.wording.with_interval(value, (low, high), "+.3f")
        where = self.wording.say("in_network", net=values["net"])
        return self.wording.say(key, where=where, switch=values["switch"], gain=gain)


def _rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a study's table; none where it is missing."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error):
        return []
