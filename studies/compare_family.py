"""Train the 34-layer family on the same recipe and seeds and write the effect of each change to
results/studies/resnet34_family/. `python -m studies.compare_family` takes those flags of
resnet_plain.py that suit every run, and --seeds 42 123 456 and --networks plain34 resnet34 ... for
fewer of either. The same command continues where it was interrupted and skips finished runs.
``--redraw FOLDER`` writes the page of a comparison again from the files of its folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from chestlab.data import sources
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.files.notebook import command_line
from chestlab.files.progress import StopSignals
from chestlab.files.run_files import STUDIES, RunFiles
from chestlab.reporting.family_report import Member
from chestlab.runs.family import RECIPES, WIDTH, recipes_for, train
from chestlab.runs.flags import parse
from chestlab.runs.naming import check_name, name_of
from chestlab.training.device import pick_device
from networks import NETWORKS
from studies.redraw import add_redraw

SEEDS = (42, 123, 456)

NAME = "resnet34_family"

TITLES = {
    "plain34": "Plain-34",
    "resnet34": "ResNet-34",
    "seresnet34": "SE-ResNet-34",
    "mishresnet34": "Mish-ResNet-34",
    "semishresnet34": "SE-Mish-ResNet-34",
    "modifiedresnet34": "Modified ResNet-34",
}

REDUCTIONS = (4, 8, 32)  # of the SE ablation; 16 is the family's own SE-ResNet-34


def _member(name: str, title: str, **flags: int) -> Member:
    network = NETWORKS[name]
    return Member(title, network.build, network.model_options, flags)


MEMBERS = {
    **{name: _member(name, title) for name, title in TITLES.items()},
    **{
        f"seresnet34_r{reduction}": _member(
            "seresnet34", f"SE-ResNet-34, r = {reduction}", reduction=reduction
        )
        for reduction in REDUCTIONS
    },
}


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is not finished, then write the comparison; exit statuses of `run`."""
    with one_line_errors(), StopSignals():
        comparison, flags = _split_flags(command_line() if argv is None else argv)
        recipes = recipes_for(NAME, flags)
        options = parse(recipes, flags, model_options={"width": WIDTH}, findings=True)
        ensemble = options.members or options.folds
        if options.no_test or options.overwrite or ensemble or options.find_lr:
            raise InputError(
                "--no-test, --overwrite, --members, --folds and --find-lr are not for a "
                "comparison; it goes on with what is there, and starts anew under another --name"
            )
        if options.weights != "none":
            raise InputError("--weights: a file is of one network, a comparison of several")
        device = pick_device(options.device)
        findings = options.task == "findings"
        source = options.data, options.root, options.source_size
        data = sources.load(*source, findings, classes=options.classes)
        name = comparison.name or name_of(options, data)
        check_name(name)
        flags = [*flags, "--resume"]
        runs: dict[str, list[RunFiles]] = {member: [] for member in comparison.networks}
        for seed in comparison.seeds:
            for member in comparison.networks:
                runs[member].append(_train(member, seed, flags, f"{STUDIES}/{name}/runs"))
        from chestlab.reporting.family_report import write_report

        folder = next(iter(runs.values()))[0].results_dir.parent
        write_report(folder, MEMBERS, runs, data, device, RECIPES)
        print(f"comparison: {folder / 'README.md'}", flush=True)


def _split_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags that only a comparison has, checked, and the others."""
    parser = OneLineParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--networks", nargs="+", choices=tuple(MEMBERS), default=tuple(MEMBERS))
    parser.add_argument("--name")
    parser.add_argument("--resume", action="store_true")  # it always does
    add_redraw(parser, _redraw, "the page")
    options, flags = parser.parse_known_args(argv)
    options.seeds = list(dict.fromkeys(options.seeds))
    options.networks = list(dict.fromkeys(options.networks))
    if not all(0 <= seed < 2**31 for seed in options.seeds):
        raise InputError(f"--seeds {options.seeds}: allowed are integers from 0 to {2**31 - 1}")
    if any(word.partition("=")[0] == "--seed" for word in flags):
        raise InputError("--seed: a comparison trains every network with each of --seeds")
    return options, flags


def _redraw(folder: Path) -> None:
    from chestlab.reporting.family_page import write_pages

    write_pages(folder)


def _train(name: str, seed: int, flags: Sequence[str], subfolder: str) -> RunFiles:
    """One ordinary run, made by the code that the member's own script uses."""
    member = MEMBERS[name]
    chosen = [word for key, value in member.flags.items() for word in (f"--{key}", str(value))]
    argv = [*flags, "--name", f"{name}_seed{seed}", "--seed", str(seed), *chosen]
    return train(member.build, name, member.model_options, argv, subfolder)


if __name__ == "__main__":
    main()
