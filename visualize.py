"""Every picture, and the page that shows them all.

    python visualize.py                      # results/README.md; details.md has every run
    python visualize.py --lang id            # the same in Indonesian: README.id.md
    python visualize.py report RUN           # the lab report of a run: README.md in its folder
    python visualize.py report RUN --format html    # as one file, to hand in
    python visualize.py pair RUN RUN         # two runs compared on the test images
    python visualize.py mistakes             # what each run got wrong: mistakes.md in its folder
    python visualize.py mistakes --run RUN   # of one run
    python visualize.py names                # NIH file name of each image
    python visualize.py augmentation         # what experiment 2's random warps do

RUN is the name of a run and of its folder in results. The first two commands write the lab reports
of all runs as well, in both languages. `mistakes` and `names` find the images of
each run by its checkpoint, or in the file that --data names. Runs on phantoms have a page of their
own, results/phantom/README.md.

Figures are drawn in `chestlab/reporting`, each on its own ``Figure`` and Agg canvas, never through
pyplot: no window system is needed and no figure stays in memory. The same input gives the same
bytes. Colours are from the Okabe-Ito palette; line style, shape or text says the same thing again.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chestlab.data import sources
from chestlab.data.splits import SOURCE_SIZES, Data, TwoClassData
from chestlab.files import notebook
from chestlab.files.atomic import check_picture, check_writable
from chestlab.files.errors import InputError, OneLineParser, one_line_errors
from chestlab.files.progress import StopSignals

if TYPE_CHECKING:
    from chestlab.reporting.stored_runs import StoredRun


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exit statuses of `errors.one_line_errors`."""
    argv = notebook.command_line() if argv is None else list(argv)
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        argv.insert(0, "readme")
    with one_line_errors(resume=None), StopSignals():
        parser, commands = _parser()
        known, unknown = parser.parse_known_args(argv)
        _refuse_flags_of_others(known, unknown, commands)
        options = parser.parse_args(argv)
        options.work(options)


def _refuse_flags_of_others(
    options: argparse.Namespace, unknown: Sequence[str], commands: Mapping[str, Any]
) -> None:
    """Name the commands that know a flag which this one does not.

    Raises:
        InputError: there is such a flag.
    """
    for word in unknown:
        flag = word.partition("=")[0]
        known = [name for name, of in commands.items() if flag in of._option_string_actions]
        if known:
            raise InputError(
                f"{flag} is no flag of {options.command}, but of {', '.join(known)}: "
                f"python visualize.py {known[-1]} {flag} ..."
            )


def _parser() -> tuple[OneLineParser, Mapping[str, Any]]:
    """The parser, and those of its commands by name."""
    from chestlab.runs.flags import add_folder, seed

    description = __doc__.split("Figures are")[0]
    raw = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(description=description, formatter_class=raw, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=OneLineParser)

    def command(
        name: str, work: Callable[[argparse.Namespace], None], help: str, results: bool = True
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, allow_abbrev=False)
        added.set_defaults(work=work)
        if results:
            add_folder(added, "--results-dir", "results")
        return added

    readme = command(
        "readme", _readme, "the page of results, and details.md with every run (the default)"
    )
    readme.add_argument("--lang", choices=("en", "id"), default="en", help="(default: en)")
    report = command("report", _report, "the lab report of a run, in English and Indonesian")
    report.add_argument("runs", nargs="*", metavar="RUN", help="its name (default: every run)")
    report.add_argument(
        "--format",
        choices=("md", "html"),
        default="md",
        help="html: also as one file with its pictures, in report in the run's folder",
    )
    report.add_argument(
        "--data",
        metavar="{chestmnist,phantom,FILE.npz}",
        help="draws the training batch of runs that were trained on it",
    )
    report.add_argument("--root", type=Path, metavar="DIR", help="of the official files")
    report.add_argument(
        "--source-size", type=int, choices=SOURCE_SIZES, help="of --data chestmnist, in pixels"
    )
    pair = command("pair", _pair, "two runs compared on the test images")
    pair.add_argument("runs", nargs=2, metavar="RUN", help="its name")
    mistakes = command("mistakes", _mistakes, "the errors, and the images nearest to the threshold")
    mistakes.add_argument("--run", metavar="RUN", help="(default: every run)")
    _add_images(mistakes)
    names = command("names", _names, "list of the two-class images' NIH file names")
    names.set_defaults(run=None)
    _add_images(names)
    augmentation = command("augmentation", _augmentation, "what the random warps do", False)
    augmentation.add_argument(
        "--data",
        default="auto",
        metavar="{auto,chestmnist,phantom,FILE.npz}",
        help="whose training images are shown (default: auto)",
    )
    augmentation.add_argument("--seed", type=seed, default=0, metavar="N", help="(default: 0)")
    augmentation.add_argument(
        "--out",
        type=Path,
        metavar="FILE.png",
        help="(default: augmentation.png in results/data, of phantoms in results/phantom/data)",
    )
    return parser, commands.choices


def _add_images(parser: argparse.ArgumentParser) -> None:
    """Flags for images that are by default those of the runs."""
    from chestlab.runs.flags import add_folder

    add = parser.add_argument
    wanted = "{chestmnist,phantom,FILE.npz}"
    add("--data", metavar=wanted, help="(default: each run's)")
    add("--root", type=Path, metavar="DIR", help="of the official files (default: each run's)")
    add("--source-size", type=int, choices=SOURCE_SIZES, help="of --data chestmnist, in pixels")
    add_folder(parser, "--models-dir", "trained_models")


def _readme(options: argparse.Namespace) -> None:
    from chestlab.reporting import overview
    from chestlab.reporting.stored_runs import read_runs

    runs = read_runs(options.results_dir)
    reports = len(_write_reports(options.results_dir, runs))  # first: the other pages link to them
    pages = overview.write_report(options.results_dir, options.lang)
    print(*pages, f"and the lab reports of {reports} runs, README.md in their folders", sep="\n")


def _report(options: argparse.Namespace) -> None:
    from chestlab.reporting.lab_html import write_html
    from chestlab.reporting.stored_runs import read_runs

    runs = read_runs(options.results_dir)
    data = None if options.data is None else _load(options, runs)
    for run, pages in _write_reports(options.results_dir, runs, options.runs, data):
        print(*pages, *(write_html(run.folder) if options.format == "html" else ()), sep="\n")


def _write_reports(
    results_dir: Path,
    runs: Sequence[StoredRun],
    names: Sequence[str] = (),
    data: Data | None = None,
) -> list[tuple[StoredRun, list[Path]]]:
    """Write lab reports; with ``data`` also the training batches of the runs on these images.

    Args:
        results_dir: of the runs.
        runs: all there are.
        names: of those that are written, none for all.
        data: images to draw, or None.

    Returns:
        The runs, each with its pages.
    """
    from chestlab.files.run_files import results_dir_of
    from chestlab.reporting.lab_report import write_lab_report
    from chestlab.reporting.look_tables import all_looks
    from chestlab.reporting.stored_runs import find_run

    shown = [find_run(runs, name) for name in names] or runs
    looks = all_looks(results_dir)
    written = []
    for run in shown:
        if data is not None and run.metrics["data"]["sha256"] == data.sha256:
            from chestlab.runs.report_files import draw_stored_batch  # and PyTorch

            draw_stored_batch(run, data)
        pages = write_lab_report(run, results_dir_of(run.folder), looks, _blocks_of)
        written.append((run, pages))
    return written


def _blocks_of(metrics: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The blocks of a stored run's network as the code of today builds it.

    None where that is another network than the run's, or there is none.
    """
    if metrics.get("blend") or metrics.get("yardstick"):
        return None
    costs, members = metrics.get("costs") or {}, len(metrics.get("members", [0]))
    arguments = json.dumps(metrics.get("model_arguments") or {}, sort_keys=True)
    blocks = _blocks(metrics["model"], arguments, costs.get("input_size") or 0)
    known = blocks is not None and sum(block["parameters"] for block in blocks)
    return blocks if known and members * known == metrics["parameters"] else None


@functools.cache
def _blocks(model: str, arguments: str, size: int) -> list[dict[str, Any]] | None:
    import torch

    from chestlab.training.architecture import describe_blocks
    from networks import network_class

    try:
        with torch.device("meta"):  # shapes alone: no weight is drawn, nothing is computed
            network = network_class(model)(**json.loads(arguments)).eval()
            return describe_blocks(network, torch.zeros(1, 1, size, size))[0]
    except (InputError, TypeError, RuntimeError):  # no network, or not of these arguments
        return None


def _pair(options: argparse.Namespace) -> None:
    from chestlab.reporting import pairs

    print(pairs.describe_pair(options.results_dir, *options.runs))


def _images_of_runs(options: argparse.Namespace) -> Iterator[tuple[TwoClassData, list[StoredRun]]]:
    """The images that ``--data`` names with all runs, or those of each run with the runs on them.

    Raises:
        InputError: there are no such images or runs.
    """
    from chestlab.reporting.stored_runs import find_run, read_runs
    from chestlab.runs.finished_runs import load_data_of

    runs = read_runs(options.results_dir)
    shown = runs if options.run is None else [find_run(runs, options.run)]
    if options.data is not None:
        yield _load(options, shown), shown
    else:
        yield from load_data_of(shown, runs, options.results_dir, options.models_dir, options.root)


def _load(options: argparse.Namespace, runs: Sequence[StoredRun]) -> TwoClassData:
    """The images that ``--data`` names, with the classes that ``--classes`` told the runs on them.

    Raises:
        InputError: there are no such images.
    """
    classes = None
    if sources.is_file_name(options.data):
        of_runs = [run.metrics["data"] for run in runs]
        fitting = [of for of in of_runs if of["source"] == Path(options.data).name] or of_runs
        told = {tuple(of.get("classes", ())) for of in fitting}
        classes = list(told.pop()) if len(told) == 1 else None
    return sources.load(options.data, options.root, options.source_size, classes=classes or None)


def _mistakes(options: argparse.Namespace) -> None:
    from chestlab.reporting.mistakes import write_mistakes

    pages = [page for found in _images_of_runs(options) for page in write_mistakes(*found)]
    print(*pages, sep="\n")
    notebook.show(page.with_suffix(".png") for page in pages)


def _names(options: argparse.Namespace) -> None:
    from chestlab.reporting.stored_runs import read_runs, write_names

    check_writable(options.results_dir, "--results-dir")
    if options.data is not None:
        runs: list[StoredRun] = []
        with contextlib.suppress(InputError):  # the list can be written before any run
            runs = read_runs(options.results_dir)
        data = _load(options, runs)
        paths = [write_names(data, options.results_dir)]
    else:
        found = [data for data, _ in _images_of_runs(options)]
        images = [d for d in found if d.train.names is not None or d.train.patients is not None]
        paths = [write_names(data, options.results_dir) for data in images]
    if not paths:
        raise InputError("no run's images have file names: --data takes a file that holds them")
    print(*paths, sep="\n")


def _augmentation(options: argparse.Namespace) -> None:
    import torch

    from chestlab.reporting.prediction_grids import draw_augmentation
    from chestlab.reporting.stored_runs import DATA
    from chestlab.training.augment import to_input
    from train_improved import BEST as recipe

    data = sources.load(options.data)
    rows = np.random.default_rng(options.seed).choice(len(data.train), size=4, replace=False)
    images = torch.from_numpy(data.train.images[rows])[:, None]
    generator = torch.Generator().manual_seed(options.seed)
    shown = dataclasses.replace(recipe, normalize="fixed", mean=0.0, std=1.0)  # pixels in 0..1
    originals = to_input(images, shown)[:, 0].numpy()
    warps = [to_input(images, shown, generator)[:, 0].numpy() for _ in range(6)]
    side = originals.shape[-1]
    title = (
        f"Augmentation: turned by up to {recipe.rotate:g} degrees, shifted by up to "
        f"{100 * recipe.translate:g} % of the side, zoomed by up to {100 * recipe.scale:g} %, "
        f"mirrored in {100 * recipe.flip:g} % of cases\n"
        f"{recipe.name} · {data.source} · {side} x {side} px, the input of the network"
    )
    folder = Path("results", "phantom" if data.phantom else "", DATA)
    out = options.out or folder / "augmentation.png"
    check_picture(out, "--out")
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_augmentation(originals, np.stack(warps, 1), out, title=title, credit=data.credit)
    print(out)
    notebook.show([out])


if __name__ == "__main__":
    main()
