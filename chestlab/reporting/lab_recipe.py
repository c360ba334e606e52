"""The recipe in a lab report: the hyperparameters that do something, a row for each matter.

A row is shown where its rule holds of the recipe; of several entries of one row those that hold
are joined. A hyperparameter that an older recipe lacks has its default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chestlab.training.recipe import Recipe, as_dict

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """Words for a part of a row, with the recipe's values to be filled in, and when they hold."""

    holds: Callable[[Values], bool]
    en: str
    id: str


@dataclass(frozen=True)
class Row:
    """What a row is about, in both languages, and its entries."""

    en: str
    id: str
    entries: tuple[Entry, ...]


def _given(name: str) -> Callable[[Values], bool]:
    """Whether a hyperparameter is switched on."""
    return lambda recipe: bool(recipe[name])


def _is(name: str, *values: Any) -> Callable[[Values], bool]:
    """Whether a hyperparameter has one of these values."""
    return lambda recipe: recipe[name] in values


def _always(recipe: Values) -> bool:
    return True


ROWS = (
    Row(
        "epochs",
        "epoch",
        (
            Entry(
                _given("stage1_epochs"),
                "at most {first_epochs:,} with the backbone frozen",
                "maksimum {first_epochs:,} dengan backbone dibekukan",
            ),
            Entry(
                _given("stage1_epochs"),
                "then at most {second_epochs:,} of the whole network",
                "lalu maksimum {second_epochs:,} untuk seluruh jaringan",
            ),
            Entry(
                lambda r: not r["stage1_epochs"] and r["monitor"] == "last",
                "{second_epochs:,}",
                "{second_epochs:,}",
            ),
            Entry(
                lambda r: not r["stage1_epochs"] and r["monitor"] != "last",
                "at most {second_epochs:,}",
                "maksimum {second_epochs:,}",
            ),
        ),
    ),
    Row(
        "epoch that is kept",
        "epoch yang dipakai",
        (
            Entry(_is("monitor", "last"), "the last one", "yang terakhir"),
            Entry(
                lambda r: r["monitor"] != "last",
                "the one with the best {monitor}",
                "yang memiliki {monitor} terbaik",
            ),
            Entry(
                lambda r: r["monitor"] != "last" and r["patience"] < r["epochs"],
                "early stopping after {patience:,} epochs without a better one",
                "early stopping setelah {patience:,} epoch tanpa perbaikan",
            ),
        ),
    ),
    Row(
        "batch size",
        "ukuran batch",
        (
            Entry(_always, "{batch_size:,} images", "{batch_size:,} citra"),
            Entry(
                lambda r: r["accumulation"] > 1,
                "gradients of {accumulation:,} batches added up",
                "gradien {accumulation:,} batch dijumlahkan",
            ),
        ),
    ),
    Row(
        "optimiser",
        "optimizer",
        (
            Entry(_always, "AdamW, learning rate {lr:g}", "AdamW, learning rate {lr:g}"),
            Entry(
                _given("stage1_epochs"),
                "{stage1_lr:g} in the first stage",
                "{stage1_lr:g} pada tahap pertama",
            ),
            Entry(
                _given("weight_decay"),
                "weight decay {weight_decay:g}",
                "weight decay {weight_decay:g}",
            ),
            Entry(
                _given("clip"),
                "gradients clipped to a norm of {clip:g}",
                "norma gradien dibatasi {clip:g}",
            ),
            Entry(
                lambda r: r["layer_decay"] < 1,
                "the first layer's rate times {layer_decay:g}",
                "learning rate lapisan pertama dikali {layer_decay:g}",
            ),
        ),
    ),
    Row(
        "learning-rate schedule",
        "jadwal learning rate",
        (
            Entry(_is("schedule", "constant"), "constant", "tetap"),
            Entry(
                _is("schedule", "onecycle"),
                "one cycle from {lr:g}/{div_factor:g} up to {lr:g} and down",
                "one cycle: dari {lr:g}/{div_factor:g} naik ke {lr:g}, lalu turun",
            ),
            Entry(_is("schedule", "cosine"), "cosine", "kosinus"),
            Entry(
                _is("schedule", "restarts"),
                "cosine with restarts, the first after {restart_epochs:,} epochs",
                "kosinus yang diulang, pertama kali setelah {restart_epochs:,} epoch",
            ),
            Entry(
                _is("schedule", "step"),
                "times {gamma:g} every {step_size:,} epochs",
                "dikali {gamma:g} setiap {step_size:,} epoch",
            ),
            Entry(
                _is("schedule", "plateau"),
                "times {gamma:g} after {plateau_patience:,} epochs without a lower validation loss",
                "dikali {gamma:g} setelah {plateau_patience:,} epoch tanpa penurunan loss validasi",
            ),
            Entry(
                lambda r: r["schedule"] in ("onecycle", "cosine", "restarts") and r["warmup"] > 0,
                "rising in the first {warmup:.0%} of the steps",
                "fase naik {warmup:.0%} dari seluruh langkah",
            ),
        ),
    ),
    Row(
        "loss",
        "fungsi loss",
        (
            Entry(_is("loss", "bce"), "binary cross-entropy", "binary cross-entropy"),
            Entry(
                _is("loss", "focal"), "focal, gamma {focal_gamma:g}", "focal, gamma {focal_gamma:g}"
            ),
            Entry(
                _given("label_smoothing"),
                "label smoothing {label_smoothing:g}",
                "label smoothing {label_smoothing:g}",
            ),
            Entry(
                lambda r: r["pos_weight"] != 1,
                "pneumothorax weighted {pos_weight:g}",
                "bobot pneumotoraks {pos_weight:g}",
            ),
        ),
    ),
    Row(
        "training images",
        "citra latih",
        (
            Entry(
                _is("sampler", "balanced"),
                "drawn so that the classes balance",
                "diambil sehingga kedua kelas seimbang",
            ),
            Entry(
                _given("related"),
                "with those that show one of the classes beside other findings",
                "ditambah citra yang menunjukkan salah satu kelas bersama temuan lain",
            ),
            Entry(
                _given("smote"),
                "smaller class filled up by SMOTE",
                "kelas yang lebih kecil ditambah dengan SMOTE",
            ),
        ),
    ),
    Row(
        "input",
        "masukan",
        (
            Entry(
                _always,
                "{input_size:,} x {input_size:,} pixels",
                "{input_size:,} x {input_size:,} piksel",
            ),
            Entry(
                _is("normalize", "per-image"),
                "each image normalised by its own mean and standard deviation",
                "setiap citra dinormalisasi dengan rerata dan simpangan bakunya sendiri",
            ),
            Entry(
                _is("normalize", "fixed"),
                "mean {mean:g} subtracted, divided by {std:g}",
                "dikurangi rerata {mean:g}, dibagi {std:g}",
            ),
        ),
    ),
    Row(
        "augmentation",
        "augmentasi",
        (
            Entry(
                _given("flip"),
                "mirrored with probability {flip:g}",
                "dicerminkan dengan peluang {flip:g}",
            ),
            Entry(
                _given("vertical_flip"),
                "upside down with probability {vertical_flip:g}",
                "dibalik atas-bawah dengan peluang {vertical_flip:g}",
            ),
            Entry(_given("rotate"), "rotated by up to {rotate:g}°", "diputar sampai {rotate:g}°"),
            Entry(
                _given("translate"),
                "shifted by up to {translate:.0%}",
                "digeser sampai {translate:.0%}",
            ),
            Entry(
                _given("scale"),
                "zoomed by up to {scale:.0%}",
                "diperbesar atau diperkecil sampai {scale:.0%}",
            ),
            Entry(
                _given("jitter"),
                "brightness and contrast changed by up to {jitter:.0%}",
                "kecerahan dan kontras diubah sampai {jitter:.0%}",
            ),
            Entry(
                _is("policy", "randaugment"),
                "RandAugment, {magnitude:g}",
                "RandAugment, {magnitude:g}",
            ),
            Entry(_is("policy", "autoaugment"), "AutoAugment", "AutoAugment"),
            Entry(
                _given("erase"),
                "a rectangle blacked out with probability {erase:g}",
                "satu persegi panjang dihitamkan dengan peluang {erase:g}",
            ),
            Entry(
                _given("degrade"),
                "coarser, noisier, with a black border: each with probability {degrade:g}",
                "lebih kasar, berderau, berbingkai hitam: masing-masing dengan peluang {degrade:g}",
            ),
            Entry(_given("mixup"), "MixUp, alpha {mixup:g}", "MixUp, alpha {mixup:g}"),
            Entry(_given("cutmix"), "CutMix, alpha {cutmix:g}", "CutMix, alpha {cutmix:g}"),
        ),
    ),
    Row(
        "regularisation",
        "regularisasi",
        (
            Entry(
                _given("ema"),
                "weights averaged, decay {ema:g} per step",
                "bobot dirata-ratakan, peluruhan {ema:g} per langkah",
            ),
            Entry(
                _given("drop_path"),
                "stochastic depth {drop_path:g}",
                "stochastic depth {drop_path:g}",
            ),
            Entry(
                _given("freeze"),
                "{freeze:.0%} of the backbone's layers frozen",
                "{freeze:.0%} lapisan backbone dibekukan",
            ),
            Entry(
                _is("batch_norm", "epoch"),
                "batch-norm statistics of one epoch",
                "statistik batch norm dari satu epoch",
            ),
            Entry(
                _is("batch_norm", "estimated"),
                "batch-norm statistics estimated anew after every epoch",
                "statistik batch norm dihitung ulang setelah setiap epoch",
            ),
            Entry(
                _is("batch_norm", "frozen"),
                "batch-norm statistics of the weights to start from, frozen",
                "statistik batch norm dari bobot awal, dibekukan",
            ),
        ),
    ),
    Row(
        "prediction",
        "prediksi",
        (
            Entry(_is("tta", "none"), "of the image as it is", "dari citra apa adanya"),
            Entry(
                _is("tta", "flip"),
                "averaged over the image and its mirror image",
                "rerata dari citra dan citra cerminnya",
            ),
            Entry(
                _is("tta", "warps"),
                "averaged over the image, its mirror image and {tta_warps:,} random warps",
                "rerata dari citra, citra cerminnya, dan {tta_warps:,} distorsi acak",
            ),
            Entry(
                _given("temperature"),
                "logits divided by a temperature fitted on validation",
                "logit dibagi temperature yang dicocokkan pada citra validasi",
            ),
        ),
    ),
)


def recipe_values(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The recipe of a run with what the rows need besides; None where it has none of ours."""
    stored = metrics.get("recipe") or {}
    if "epochs" not in stored:
        return None
    recipe = as_dict(Recipe(name="")) | stored
    return recipe | {
        "first_epochs": min(recipe["epochs"], recipe["stage1_epochs"]),
        "second_epochs": min(recipe["epochs"], recipe["stage2_epochs"] or recipe["epochs"]),
        "input_size": recipe["image_size"] or metrics["data"].get("size") or 0,
    }
