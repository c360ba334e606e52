"""Train the 34-layer family on the same recipe and seeds, and write what each change is worth to
results/resnet34_family/. Takes the flags of resnet_se.py, and --seeds 42 123 456 and --networks
plain34 resnet34 ... for fewer of either. It goes on where it was interrupted and skips what is
finished.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import resnet_modified
from chestlab.data import sources
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.files.notebook import command_line
from chestlab.files.progress import StopSignals
from chestlab.files.run_files import RunFiles
from chestlab.reporting.family_report import Member
from chestlab.runs.family import RECIPES, REDUCTION, WIDTH, recipes_for, train
from chestlab.runs.flags import parse
from chestlab.runs.naming import check_name, run_name
from chestlab.training.device import pick_device
from resnet_mish import MishResNet34
from resnet_modified import ModifiedResNet34
from resnet_plain import Plain34, ResNet34
from resnet_se import SEResNet34
from resnet_se_mish import SEMishResNet34

SEEDS = (42, 123, 456)

NAME = "resnet34_family"


def _se(reduction: int) -> Member:
    flags = {"reduction": reduction}
    return Member(f"SE-ResNet-34, r = {reduction}", SEResNet34, {"reduction": REDUCTION}, flags)


FAMILY = {
    "plain34": Member("Plain-34", Plain34),
    "resnet34": Member("ResNet-34", ResNet34),
    "seresnet34": Member("SE-ResNet-34", SEResNet34, {"reduction": REDUCTION}),
    "mishresnet34": Member("Mish-ResNet-34", MishResNet34),
    "semishresnet34": Member("SE-Mish-ResNet-34", SEMishResNet34, {"reduction": REDUCTION}),
    "modifiedresnet34": Member("Modified ResNet-34", ModifiedResNet34, resnet_modified.OPTIONS),
}

# Reduction 16 of the ablation is the family's own SE-ResNet-34.
ABLATION = {f"seresnet34_r{reduction}": _se(reduction) for reduction in (4, 8, 32)}

MEMBERS = {**FAMILY, **ABLATION}


def main(argv: Sequence[str] | None = None) -> None:
    """Train what is not finished, then write the comparison; exit statuses of `experiment.run`."""
    with one_line_errors(), StopSignals():
        own, flags = _own_flags(command_line() if argv is None else argv)
        recipes = recipes_for(NAME, flags)
        options = parse(recipes, flags, model_options={"width": WIDTH}, findings=True)
        if options.no_test or options.overwrite or options.members or options.folds:
            raise InputError(
                "--no-test, --overwrite, --members and --folds are not for a comparison; it goes "
                "on with what is there, and starts anew under another --name"
            )
        if options.weights != "none":
            raise InputError("--weights: a file is of one network, a comparison of several")
        device = pick_device(options.device)
        findings = options.task == "findings"
        data = sources.load(options.data, options.root, options.source_size, findings)
        name = own.name or run_name(options.recipe, options.data, data.size)
        check_name(name)
        flags = [*flags, "--resume"]
        runs: dict[str, list[RunFiles]] = {member: [] for member in own.networks}
        for seed in own.seeds:
            for member in own.networks:
                runs[member].append(_run(member, seed, flags, f"{name}/runs"))
        from chestlab.reporting.family_report import write_report

        folder = next(iter(runs.values()))[0].results_dir.parent
        write_report(folder, MEMBERS, runs, data, device, RECIPES)
        print(f"comparison: {folder / 'README.md'}", flush=True)


def _own_flags(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags that only a comparison has, checked, and the others."""
    parser = OneLineParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--networks", nargs="+", choices=tuple(MEMBERS), default=tuple(MEMBERS))
    parser.add_argument("--name")
    parser.add_argument("--resume", action="store_true")  # it always does
    own, flags = parser.parse_known_args(argv)
    own.seeds, own.networks = list(dict.fromkeys(own.seeds)), list(dict.fromkeys(own.networks))
    if not all(0 <= seed < 2**31 for seed in own.seeds):
        raise InputError(f"--seeds {own.seeds}: allowed are integers from 0 to {2**31 - 1}")
    return own, flags


def _run(member: str, seed: int, flags: Sequence[str], below: str) -> RunFiles:
    """One ordinary run, made by the code that the member's own script uses."""
    one = MEMBERS[member]
    chosen = [word for key, value in one.flags.items() for word in (f"--{key}", str(value))]
    argv = [*flags, "--name", f"{member}_seed{seed}", "--seed", str(seed), *chosen]
    return train(one.build, member, one.model_options, argv, below)


if __name__ == "__main__":
    main()
