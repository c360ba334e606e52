"""What each step of a training in two stages brought, beside the course report of experiment 3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from chestlab.reporting.lab_experiments import Texts
from chestlab.reporting.lab_wording import LabWording
from chestlab.reporting.page import markdown_table
from chestlab.reporting.stored_runs import StoredRun
from chestlab.training.recipe import Recipe, as_dict

# What the course report of experiment 3 states of its run.
REPORT_NETWORK = "MobileNetV3Chest"
REPORT_ACCURACIES = {"stage1": 0.7475, "stage2": 0.8918, "tta": 0.8951}  # of validation
REPORT_IMAGES, REPORT_SIZE = 305, 28  # of validation, in pixels
REPORT_THRESHOLD = 0.67
REPORT_RECIPE = Recipe(
    name="report",
    stage1_epochs=30,
    stage1_lr=1e-3,
    epochs=120,
    lr=1e-4,
    patience=40,
    batch_size=48,
    accumulation=2,
    weight_decay=0.01,
    clip=1.0,
    image_size=128,
    mean=0.449,
    std=0.226,
    stem="mean",
    flip=0.5,
    tta="flip",
    seed=2024,
)

NOT_COMPARED = {"name", "amp", "graph", "cpu_bf16"}  # precision follows the device

STEPS: dict[str, Texts] = {
    "stage1": (
        "the classifier alone, with the backbone frozen",
        "pengklasifikasi saja, dengan backbone dibekukan",
    ),
    "stage2": ("the whole network", "seluruh jaringan"),
    "tta": (
        "and predictions averaged over views of the image",
        "lalu prediksi dirata-ratakan dari beberapa tampilan citra",
    ),
    "threshold": (
        "and the threshold {threshold:.2f}, chosen on these images",
        "lalu ambang {threshold:.2f}, yang dipilih dengan citra ini juga",
    ),
}

HEADS: dict[str, Texts] = {
    "step": ("after", "setelah"),
    "accuracy": ("accuracy", "akurasi"),
    "auc": ("AUC", "AUC"),
    "report": ("accuracy in the course report", "akurasi dalam laporan praktikum"),
}

REPORT: Texts = (
    "The last column is quoted from the course report of experiment 3: MobileNetV3-Large from "
    "ImageNet's weights, on {report_images} validation images of the full ChestMNIST; its "
    "threshold is {report_threshold:.2f}, for which it gives no accuracy of its own.",
    "Kolom terakhir dikutip dari laporan praktikum eksperimen 3: MobileNetV3-Large dari bobot "
    "ImageNet, pada {report_images} citra validasi ChestMNIST lengkap; ambangnya "
    "{report_threshold:.2f}, dan akurasi pada ambang itu tidak disebutkan.",
)

SAME: Texts = (
    "This run has the report's network, starting weights, recipe and number of images.",
    "Percobaan ini memakai jaringan, bobot awal, resep, dan jumlah citra yang sama dengan laporan "
    "itu.",
)

OTHER: Texts = (
    "This run is another experiment: {differences}. What can be compared is whether a step helps; "
    "the figures themselves cannot.",
    "Percobaan ini adalah eksperimen lain: {differences}. Yang dapat dibandingkan adalah apakah "
    "suatu langkah membantu, bukan angkanya.",
)

DIFFERENCES: dict[str, Texts] = {
    "network": ("the network is {title}", "jaringannya {title}"),
    "start": ("it starts from {start}", "dimulai dari {start}"),
    "images": (
        "its {val_n:,} validation images of {size} x {size} pixels come from {source}",
        "{val_n:,} citra validasinya, berukuran {size} x {size} piksel, berasal dari {source}",
    ),
}

CHANGE: Texts = ("`{key}` is {value}, not {report}", "`{key}` adalah {value}, bukan {report}")


def beside_report(run: StoredRun) -> bool:
    """Whether a run's steps are those of experiment 3's report, or its network is."""
    stages = run.metrics.get("ladder") or {}
    of_report = "stage1" in stages or run.metrics["model"] == REPORT_NETWORK
    return bool(stages) and of_report and not run.phantom


def stage_table(wording: LabWording, run: StoredRun) -> str:
    """Validation accuracy and AUC after each step, as Markdown; empty where none is stored."""
    stages, rows = run.metrics.get("ladder") or {}, []
    for name, figures in stages.items():
        val = figures["val"]
        facts = {"threshold": run.metrics["threshold"]}
        row = [wording.texts(STEPS[name], facts), wording.percent(val["accuracy"])]
        row.append(wording.number(val["auc"]))
        if beside_report(run):
            quoted = REPORT_ACCURACIES.get(name)
            number = wording.number(quoted and 100 * quoted, ".2f")
            row.append(f"{number} %" if quoted else number)
        rows.append(row)
    heads = [texts[wording.column] for texts in HEADS.values()]
    return markdown_table(heads[: len(rows[0])], rows, 1) if rows else ""


def stage_note(wording: LabWording, run: StoredRun, facts: Mapping[str, Any]) -> str:
    """What the report's column is, and in what the run differs; empty without that column.

    Args:
        wording: language of the page.
        run: of the page.
        facts: of `lab_facts.facts_of`, with ``title`` and ``start`` in the language.
    """
    if not beside_report(run):
        return ""
    of_report = {"report_images": REPORT_IMAGES, "report_threshold": REPORT_THRESHOLD}
    quoted = wording.texts(REPORT, of_report)
    differences = "; ".join(_differences(wording, run.metrics, facts))
    if not differences:
        return f"{quoted} {SAME[wording.column]}"
    return f"{quoted} {OTHER[wording.column].format(differences=differences)}"


def _differences(
    wording: LabWording, metrics: Mapping[str, Any], facts: Mapping[str, Any]
) -> Iterator[str]:
    same = {
        "network": metrics["model"] == REPORT_NETWORK,
        "start": (metrics.get("starting_weights") or {}).get("source") == "imagenet",
        "images": (facts["val_n"], facts["size"]) == (REPORT_IMAGES, REPORT_SIZE),
    }
    for name, texts in DIFFERENCES.items():
        if not same[name]:
            yield wording.texts(texts, facts)
    for key, report in as_dict(REPORT_RECIPE).items():
        value = metrics["recipe"].get(key, report)  # one of an older version lacks some
        if value != report and key not in NOT_COMPARED:
            yield CHANGE[wording.column].format(key=key, value=value, report=report)
