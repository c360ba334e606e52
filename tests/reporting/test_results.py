"""The committed results: tidy, linked, up to date, and every figure that of stored predictions."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from conftest import ROOT
from markdown_it import MarkdownIt
from sklearn.metrics import roc_auc_score

from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.evaluation.predictions import MEMBERS, read_members
from chestlab.reporting import overview
from chestlab.reporting.stored_runs import read_runs
from chestlab.reporting.style import MAX_BYTES
from chestlab.training.network_names import network_name

RESULTS = ROOT / "results"

MOST_FILES, MOST_BYTES = 440, 15 * 2**20

EXPERIMENTS = {  # classes of the networks of the nine
    *("EfficientChestNet", "ResidualChestNet", "MobileNetV3Chest", "DenseNet121Chest", "Plain34"),
    *("ResNet34", "SEResNet34", "MishResNet34", "ModifiedResNet34", "SEMishResNet34"),
}


def committed() -> list[Path]:
    """The files of results under version control; of a copy without git, all but phantoms'."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "results"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0 and listed.stdout:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
        return [path for path in paths if path.exists()]
    paths = (path for path in RESULTS.rglob("*") if path.is_file())
    return [path for path in paths if RESULTS / "phantom" not in path.parents]


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return committed()


@pytest.fixture(scope="module")
def pages(files) -> list[Path]:
    """Every committed page of results, the front pages and the docs."""
    inside = [path for path in files if path.suffix == ".md"]
    return [*inside, *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def html_of(path: Path) -> str:
    renderer = MarkdownIt("commonmark", {"html": True}).enable("table")
    return renderer.render(path.read_text(encoding="utf-8"))


def addresses(path: Path) -> list[str]:
    """Where the links and pictures of a page lead, but for the web."""
    found = re.findall(r'(?:href|src)="([^"]+)"', html_of(path))
    return [unquote(address) for address in found if not re.match(r"[a-z]+:", address)]


def anchors(path: Path) -> set[str]:
    """What a code host calls the headings of a page."""
    headings = re.findall(r"<h\d>(.*?)</h\d>", html_of(path))
    plain = (re.sub(r"<[^>]+>|[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def test_there_is_one_run_of_each_experiment_and_little_beside_them(files):
    top = {path.relative_to(RESULTS).parts[0] for path in files}
    on_top = {path.name for path in files if path.parent == RESULTS}
    folders = top - on_top
    runs = [
        json.loads((RESULTS / name / "metrics.json").read_text())
        for name in folders - {"studies", "data"}
    ]
    assert {"studies", "data"} <= folders and len(on_top) <= 10
    fast = "EfficientChestNet (strides 2122)"
    assert sorted(map(network_name, runs)) == sorted([*EXPERIMENTS, fast])
    assert len(files) <= MOST_FILES
    sizes = {path: path.stat().st_size for path in files}
    assert max(sizes.values()) < MAX_BYTES, max(sizes, key=sizes.__getitem__)
    assert sum(sizes.values()) <= MOST_BYTES


def test_every_link_of_every_page_leads_somewhere(pages):
    known = {path.resolve(): anchors(path) for path in pages}
    for page in pages:
        for address in addresses(page):
            name, _, anchor = address.partition("#")
            target = (page.parent / name).resolve() if name else page.resolve()
            assert target.exists(), f"{page.relative_to(ROOT)}: {address}"
            if anchor and target in known:
                assert anchor in known[target], f"{page.relative_to(ROOT)}: {address}"


def test_nothing_lies_there_that_no_page_links_to(files, pages):
    linked = {
        (page.parent / address.partition("#")[0]).resolve()
        for page in pages
        for address in addresses(page)
    }
    first = {(RESULTS / name).resolve() for name in ("README.md", "README.id.md")}
    lost = [str(path.relative_to(ROOT)) for path in files if path.resolve() not in linked | first]
    assert not lost


@pytest.mark.parametrize("language", ["en", "id"])
def test_the_first_page_is_short_and_has_one_heading_one_picture_and_one_table(language):
    path = RESULTS / overview.PAGES[language]
    text, html = path.read_text(encoding="utf-8"), html_of(path)
    assert len(text.splitlines()) < 120
    assert len(re.findall(r"<h1>", html)) == 1 and not re.search(r"<h[2-6]>", html)
    assert len(re.findall(r"<img ", html)) == len(re.findall(r"<table>", html)) == 1
    head, *rows = re.findall(r"<tr>(.*?)</tr>", html, flags=re.DOTALL)
    assert len(re.findall(r"<th\b", head)) <= 6
    for row in rows:
        assert 'href="' in row.split("</td>")[0]  # to its run
    assert len(rows) > len(EXPERIMENTS)
    answer = html[: html.index("<img ")]
    assert "90 %" in answer and "chestmnist_nih_subset_28.npz" in answer


@pytest.fixture(scope="module")
def written_again(tmp_path_factory) -> Path:
    """A copy of the results whose pages were written anew."""
    folder = tmp_path_factory.mktemp("again") / "results"
    shutil.copytree(RESULTS, folder, ignore=shutil.ignore_patterns("phantom"))
    (folder.parent / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "studies.md", folder.parent / "docs")  # the first page links to it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chestlab.reporting.front_page.draw_front", lambda *a, **k: None)
        patch.setattr("chestlab.reporting.comparison_plots.draw_comparison", lambda *a, **k: None)
        for language in ("en", "id"):
            overview.write_report(folder, language)
    return folder


@pytest.mark.parametrize("name", ["README", "details", "studies/README"])
@pytest.mark.parametrize("end", [".md", ".id.md"])
def test_pages_say_what_the_files_say(name, end, written_again):
    """But for the last digit of a number, which another processor may round otherwise."""
    texts = [(place / f"{name}{end}").read_text("utf-8") for place in (RESULTS, written_again)]
    number = r"\d+(?:[.,]\d+)?"
    committed, again = (re.sub(number, "0", text).splitlines() for text in texts)
    assert committed == again, "python visualize.py, and again with --lang id"
    values = [re.findall(number, text) for text in texts]
    for one, other in zip(*values, strict=True):
        step = 10.0 ** -len(re.split("[.,]", one)[1]) if re.search("[.,]", one) else 1
        one, other = (float(text.replace(",", ".")) for text in (one, other))
        assert abs(one - other) <= 1.01 * step


ENGLISH = (  # words that no Indonesian sentence has
    *("the", "with", "of", "and", "is", "are", "was", "were", "from", "that", "which", "by"),
    *("this", "these", "than", "it", "not", "be", "for", "each", "after", "before", "its"),
    *("their", "has", "have", "on", "at", "an", "or", "as"),
)

TERMS = (  # that are English in Indonesian texts, too
    *("out-of-fold", "out of fold", "squeeze-and-excitation", "CUDA out of memory", "Run all"),
    *("PHANTOM DATA, not ChestMNIST", "CC BY"),
)


def test_no_english_is_left_on_indonesian_pages(files):
    pages = [path for path in files if path.name.endswith(".id.md")] + [ROOT / "README.id.md"]
    assert len(pages) > 30
    words = re.compile(rf"\b(?:{'|'.join(ENGLISH)})\b", re.IGNORECASE)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for pattern in (r"```.*?```", r"(?m)^    .*$", r"`[^`]*`", r"\]\([^)]*\)"):
            text = re.sub(pattern, " ", text, flags=re.DOTALL)
        for term in TERMS:
            text = re.sub(re.escape(term), " ", text, flags=re.IGNORECASE)
        left = [line for line in text.splitlines() if words.search(line)]
        assert not left, page.relative_to(ROOT)


def test_every_study_has_its_page_in_both_languages(files):
    pages = {path for path in files if path.parent.parent == RESULTS / "studies"}
    for folder in {path.parent for path in pages}:
        assert {folder / name for name in overview.PAGES.values()} <= pages, folder.name


def area(labels, probabilities) -> float:
    return roc_auc_score(labels, probabilities)


def test_figures_of_runs_are_those_of_their_predictions():
    runs = [run for run in read_runs(RESULTS) if not run.phantom]
    assert len(runs) >= 10
    for run in runs:
        for split, predictions in run.predictions.items():
            figures, labels = run.metrics[split], predictions.labels
            assert figures["n"] == len(labels)
            if figures["auc"] is not None:
                assert figures["auc"] == pytest.approx(area(labels, predictions.probabilities))
            low, high = figures["accuracy_ci95"]
            assert low <= figures["accuracy"] <= high
            if split != "oof":  # whose folds have thresholds of their own in older runs
                assert figures["accuracy"] == pytest.approx(run.correct(split).mean())
                (tn, fp), (fn, tp) = figures["confusion"]
                assert [tn + fp, fn + tp] == np.bincount(labels, minlength=2).tolist()
                assert figures["sensitivity"] == pytest.approx(tp / (tp + fn))
                assert figures["specificity"] == pytest.approx(tn / (tn + fp))


def test_averages_and_their_members_are_those_of_the_packed_predictions():
    folders = [path.parent for path in RESULTS.glob(f"studies/*/{MEMBERS}")]
    averages = [run for run in read_runs(RESULTS) if run.folder in folders]
    assert averages
    for run in averages:
        origin, index, labels, predicted = read_members(run.folder / MEMBERS)
        images = zip(origin.tolist(), index.tolist(), strict=True)
        place = {key: row for row, key in enumerate(images)}
        values = np.stack(list(predicted.values()))
        for predictions in run.predictions.values():
            keys = zip(predictions.origin.tolist(), predictions.index.tolist(), strict=True)
            rows = np.array([place[key] for key in keys])
            assert np.array_equal(labels[rows], predictions.labels)
            mean = np.nanmean(values[:, rows], axis=0)
            assert mean == pytest.approx(predictions.probabilities)
        for member in run.metrics["members"]:
            of_member = predicted[member["name"]]
            for split in {"val", "test"} & member.keys():
                rows = (origin == split) & ~np.isnan(of_member)
                auc = area(labels[rows], of_member[rows])
                assert member[split]["auc"] == pytest.approx(auc), (run.name, member["name"])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_family_and_its_runs_are_those_of_the_packed_predictions():
    folder = next(RESULTS.glob("studies/resnet34_family_chestmnist_*"))
    origin, _, labels, predicted = read_members(folder / MEMBERS)
    runs = rows_of(folder / "runs.csv")
    assert [run["run"] for run in runs] == list(predicted)
    by_network: dict[str, list[float]] = {}
    for run in runs:
        for split in ("val", "test"):
            here = origin == split
            values = predicted[run["run"]][here]
            assert float(run[f"{split}_auc"]) == pytest.approx(area(labels[here], values))
            correct = (values >= float(run["threshold"])) == (labels[here] == 1)
            assert float(run[f"{split}_accuracy"]) == pytest.approx(correct.mean())
        name = run["run"].rpartition("_seed")[0]
        by_network.setdefault(name, []).append(float(run["test_auc"]))
    table = rows_of(folder / "table.csv")
    means = [np.mean(values) for values in by_network.values()]
    assert [float(row["test_auc"]) for row in table] == pytest.approx(means)


@pytest.mark.parametrize("kind", ["ablation", "fresh_folds"])
def test_tables_of_studies_are_those_of_their_logits(kind):
    folders = [path.parent for path in RESULTS.glob(f"studies/*/{kind}.json")]
    if not folders:
        pytest.skip(f"no {kind} among the results yet")
    for folder in folders:
        oof = OutOfFold.read(folder / "oof.csv")
        for row in rows_of(folder / "table.csv"):
            logits = oof.logits[row["configuration"]]
            areas = [
                area(oof.labels[folds == fold], values[folds == fold])
                for values, folds in zip(logits, oof.folds, strict=True)
                for fold in np.unique(folds)
            ]
            assert float(row["auc"]) == pytest.approx(np.mean(areas))
            accuracy = ((logits >= 0) == (oof.labels == 1)).mean()
            assert float(row["accuracy"]) == pytest.approx(accuracy)


def test_rows_that_were_taken_over_are_those_of_the_results_on_smaller_images():
    studies = [path.parent for path in RESULTS.glob("studies/*/fresh_folds.json")]
    known = {folder: json.loads((folder / "fresh_folds.json").read_text()) for folder in studies}
    for folder, summary in known.items():
        oof = OutOfFold.read(folder / "oof.csv")
        taken = {name: of for name, of in summary["configurations"].items() if "data" in of}
        for name, entry in taken.items():
            sha256 = entry.pop("data")
            (there,) = (of for of in known if known[of]["data"]["sha256"] == sha256)
            row = name.removesuffix(f"_{known[there]['data']['size']}px")
            assert entry == known[there]["configurations"][row]
            assert np.array_equal(oof.logits[name], OutOfFold.read(there / "oof.csv").logits[row])


@pytest.mark.parametrize(("page", "to"), [("README.md", " to "), ("README.id.md", " s.d. ")])
def test_the_front_pages_figures_are_those_of_the_results(page, to):
    def plain(path: Path) -> str:
        text = path.read_text(encoding="utf-8").replace("<br>", " ").replace("\u00a0", " ")
        return " ".join(text.replace("**", "").split())

    number = r"\d+[.,]\d+"
    figures = re.findall(
        rf"{number}(?: %)? \({number}{re.escape(to)}{number}\)", plain(ROOT / page)
    )
    assert len(figures) >= 4
    pages = [RESULTS / page, *RESULTS.glob(f"studies/fresh_folds_*/{page}")]
    told = " ".join(map(plain, pages))
    assert [figure for figure in figures if figure not in told] == []
