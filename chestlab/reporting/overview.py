"""The pages of all runs: the first one, and those behind its links.

`python visualize.py` writes them from the folders of finished runs and studies: ``README.md`` or
``README.id.md`` (see `front_page`), ``details.md`` (see `details`), and ``studies/README.md`` (see
`study_pages`). Runs on phantoms have pages of their own in `results/phantom/`, which like all in
that folder are not under version control.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from chestlab.data.phantom import PHANTOM_MARK
from chestlab.evaluation.looks import Look
from chestlab.files.atomic import atomic_write
from chestlab.files.run_files import STUDIES
from chestlab.reporting.details import by_source, details_page
from chestlab.reporting.fresh_results import FreshFolds, read_fresh_folds, read_seeds
from chestlab.reporting.front_page import FrontPage
from chestlab.reporting.look_tables import all_looks, image_set_of, looks_at_images_of
from chestlab.reporting.messages import LANGUAGES, MESSAGES
from chestlab.reporting.page import Wording, escaped, link, render
from chestlab.reporting.stored_runs import StoredRun, data_key, read_runs
from chestlab.reporting.study_pages import is_of_phantoms, studies_page, study_folders


def page_names(stem: str) -> dict[str, str]:
    """The names of a page's files by language."""
    return {code: f"{stem}.md" if code == "en" else f"{stem}.{code}.md" for code in LANGUAGES}


PAGES, DETAILS = page_names("README"), page_names("details")


def write_report(results_dir: Path, language: str = "en") -> list[Path]:
    """Write the pages of all runs in one language, and the pictures they need.

    Those of the X-rays lie in ``results_dir``, those of the phantoms in its ``phantom``. Where
    there are no runs on X-rays, the pages in ``results_dir`` are the phantoms'.

    Returns:
        The pages: of each kind of images ``README.md``, details, and studies where there are any.

    Raises:
        InputError: there is no finished run.
        OSError: a file cannot be written.
    """
    runs = read_runs(results_dir)
    report = _Report(Wording(language), results_dir, all_looks(results_dir))
    studies = study_folders(results_dir)
    phantoms = [run for run in runs if run.phantom]
    if len(phantoms) == len(runs):
        return report.write(results_dir, runs, studies)
    marked = [folder for folder in studies if is_of_phantoms(folder)]
    others = [folder for folder in studies if folder not in marked]
    pages = report.write(results_dir, [run for run in runs if not run.phantom], others)
    if phantoms:
        folder = results_dir / "phantom"
        folder.mkdir(exist_ok=True)  # all are on a phantom file, whose runs lie beside the X-rays'
        pages += report.write(folder, phantoms, marked)
    return pages


class _Report:
    """Writes the pages of one kind of images.

    Args:
        wording: language of the pages.
        results_dir: of all runs.
        looks: at any test images.
    """

    def __init__(self, wording: Wording, results_dir: Path, looks: Sequence[Look]) -> None:
        self.wording, self.results_dir, self.looks = wording, results_dir, looks
        places = (results_dir, results_dir / "phantom")
        self.fresh = [study for place in places for study in read_fresh_folds(place)]
        self.seeds = [study for place in places for study in read_seeds(place)]

    def write(self, folder: Path, runs: Sequence[StoredRun], studies: Sequence[Path]) -> list[Path]:
        """Write the pages of these runs and studies into a folder."""
        language = self.wording.language
        paths = {
            "front": folder / PAGES[language],
            "details": folder / DETAILS[language],
            "studies": folder / STUDIES / PAGES[language],
        }
        front = self._front_page(folder, runs, studies)
        texts = {
            "details": details_page(
                self.wording,
                self.results_dir,
                folder,
                runs,
                self.looks,
                self._around(paths, "details"),
                front.leads(),
            )
        }
        if studies:
            paths["studies"].parent.mkdir(exist_ok=True)
            place = paths["studies"].parent
            around = self._around(paths, "studies")
            texts["studies"] = studies_page(self.wording, place, studies, around)
        for name, text in texts.items():
            atomic_write(paths[name], text)
        atomic_write(paths["front"], self._front(front, folder, runs, studies, paths))
        return [
            paths[name] for name in ("front", "details", "studies") if name in ("front", *texts)
        ]

    def _around(self, paths: dict[str, Path], name: str) -> dict[str, str]:
        """Addresses of the first page and of this page in the other language, from this page."""
        page = paths[name]
        around = {"front": link(page.parent, paths["front"]), "translation": "", "language": ""}
        names = DETAILS if name == "details" else PAGES
        for code in LANGUAGES:
            if code != self.wording.language and (page.parent / names[code]).exists():
                around["translation"] = names[code]
                around["language"] = MESSAGES["language"][LANGUAGES.index(code)]
        return around

    def _front_page(
        self, folder: Path, runs: Sequence[StoredRun], studies: Sequence[Path]
    ) -> FrontPage:
        """What the first page says."""
        main, fresh = self._main_images(runs)
        keys = {run.data_key for run in main}
        seeds = [study for study in self.seeds if data_key(study.about["data"]) in keys]
        ablations = [path for path in studies if _sha256_of(path / "ablation.json") in keys]
        looks = len(looks_at_images_of(main, self.looks))
        others = [study for study in self.fresh if fresh and fresh.is_of_other_size(study)]
        return FrontPage(
            self.wording,
            self.results_dir,
            folder,
            main,
            fresh,
            others,
            seeds,
            ablations,
            looks,
        )

    def _front(
        self,
        page: FrontPage,
        folder: Path,
        runs: Sequence[StoredRun],
        studies: Sequence[Path],
        paths: dict[str, Path],
    ) -> str:
        """The text of the first page, whose picture is drawn."""
        keys = {run.data_key for run in page.runs}
        picture = (
            "experiments.png"
            if self.wording.language == "en"
            else (f"experiments.{self.wording.language}.png")
        )
        page.draw(folder / picture)
        others = [run for run in runs if run.data_key not in keys]
        details = link(folder, paths["details"])
        return render(
            "front.md.j2",
            say=self.wording.say,
            around=self._around(paths, "front"),
            page=page,
            picture=picture,
            unit=self.wording.say(
                "patient" if page.runs[0].metrics.get("bootstrap_unit") == "patient" else "image"
            ),
            details=details,
            studies=link(folder, paths["studies"]) if studies else "",
            others=", ".join(
                f"{escaped(group[0].source)} ({len(group)})" for group in by_source(others)
            ),
            phantom_mark=PHANTOM_MARK if all(run.phantom for run in runs) else "",
        )

    def _main_images(self, runs: Sequence[StoredRun]) -> tuple[list[StoredRun], FreshFolds | None]:
        """The runs on the images that the first page is about, and the fresh folds of these.

        The images that a study on fresh folds is of, else those of the most runs. Files of the
        same X-rays in another size count as the same images.
        """
        groups: dict[tuple[str, ...], list[StoredRun]] = {}
        for run in runs:
            images = image_set_of(self.results_dir, run.metrics)
            key = images, *run.metrics["data"].get("classes", ())
            groups.setdefault(key, []).append(run)
        for fresh in sorted(self.fresh, key=lambda study: -len(study.configurations)):
            for group in groups.values():
                if fresh.sha256 in {run.metrics["data"]["sha256"] for run in group}:
                    return group, fresh
        return max(groups.values(), key=len), None


def _sha256_of(path: Path) -> str:
    """Of the data that a study's JSON file names; empty where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["data"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
