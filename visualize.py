"""Every picture, and the page that shows them all.

    python visualize.py                               # every run -> results/README.md
    python visualize.py --lang id                     # the same in Indonesian: README.id.md
    python visualize.py pair RUN RUN                  # two runs compared on the test images
    python visualize.py mistakes --data FILE.npz      # what the runs on these images got wrong
    python visualize.py names --data FILE.npz         # NIH file name of each image
    python visualize.py augmentation --data FILE.npz  # what experiment 2's random warps do

Figures are drawn in `chestlab/reporting`, each on its own ``Figure`` and Agg canvas, never through
pyplot: no window system is needed and no figure stays in memory. The same input gives the same
bytes. Colours are from the Okabe-Ito palette; line style, shape or text says the same thing again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from chestlab.data import sources
from chestlab.data.splits import NIH_CREDIT
from chestlab.files import notebook
from chestlab.files.atomic import check_writable
from chestlab.files.errors import InputError, OneLineParser


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; status 2 and one line on stderr for wrong input, 1 for a full disk."""
    argv = notebook.command_line() if argv is None else list(argv)
    if not argv or (argv[0].startswith("-") and argv[0] not in ("-h", "--help")):
        argv.insert(0, "readme")
    try:
        options = _parser().parse_args(argv)
        options.work(options)
    except (InputError, OSError) as error:
        notebook.leave(2 if isinstance(error, InputError) else 1, f"error: {error}")


def _parser() -> OneLineParser:
    from chestlab.runs.flags import add_data, add_folder

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

    readme = command("readme", _readme, "all runs on one page (what happens without a command)")
    readme.add_argument("--lang", choices=("en", "id"), default="en", help="(default: en)")
    pair = command("pair", _pair, "two runs compared on the test images")
    pair.add_argument("runs", nargs=2, metavar="RUN", help="folder in the results")
    mistakes = command("mistakes", _mistakes, "pages of the errors and of the uncertain cases")
    mistakes.add_argument("--run", metavar="NAME", help="(default: every run on these images)")
    add_data(mistakes)
    add_data(command("names", _names, "list of the two-class images' names"))
    augmentation = command("augmentation", _augmentation, "what the random warps do", False)
    augmentation.add_argument("--data", default="auto", help="as in train.py (default: auto)")
    augmentation.add_argument("--seed", type=int, default=0, help="(default: 0)")
    augmentation.add_argument(
        "--out",
        type=Path,
        default=Path("results/augmentation.png"),
        metavar="FILE.png",
        help="(default: results/augmentation.png)",
    )
    return parser


def _readme(options: argparse.Namespace) -> None:
    from chestlab.reporting import overview

    print(overview.write_report(options.results_dir, options.lang))


def _pair(options: argparse.Namespace) -> None:
    from chestlab.reporting import pairs

    print(pairs.describe_pair(options.results_dir, *options.runs))


def _mistakes(options: argparse.Namespace) -> None:
    from chestlab.reporting.mistakes import write_mistakes

    data = sources.load(options.data, options.root, options.source_size)
    pages = write_mistakes(data, options.results_dir, options.run)
    print(*pages, sep="\n")
    notebook.show(page.with_suffix(".png") for page in pages)


def _names(options: argparse.Namespace) -> None:
    from chestlab.reporting.stored_runs import write_names

    check_writable(options.results_dir, "--results-dir")
    data = sources.load(options.data, options.root, options.source_size)
    print(write_names(data, options.results_dir))


def _augmentation(options: argparse.Namespace) -> None:
    import torch

    from chestlab.reporting.prediction_grids import draw_augmentation
    from chestlab.training.augment import augment
    from train_improved import REPORT as recipe

    data = sources.load(options.data)
    rows = np.random.default_rng(options.seed).choice(len(data.train), size=4, replace=False)
    originals = data.train.images[rows]
    generator = torch.Generator().manual_seed(options.seed)
    x = torch.from_numpy(originals)[:, None].float() / 255
    warps = [augment(x, recipe, generator)[:, 0].numpy() for _ in range(6)]
    title = (
        f"Augmentation of {recipe.name}: rotation +-{recipe.rotate:g} degrees, shift "
        f"+-{recipe.translate:.0%}, zoom +-{recipe.scale:.0%}, flip {recipe.flip:.0%}"
        f"\n{data.source}"
    )
    credit = "" if data.phantom else NIH_CREDIT
    check_writable(options.out.parent, "--out")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw_augmentation(originals, np.stack(warps, 1), options.out, title=title, credit=credit)
    print(options.out)
    notebook.show([options.out])


if __name__ == "__main__":
    main()
