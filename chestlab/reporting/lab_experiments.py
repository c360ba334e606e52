"""Question and hypothesis of every experiment, for the lab reports: one entry per network.

A hypothesis goes on with `COMMON`, the part that each run can answer. `CLAIMS` are those that the
course reports make about two networks, which no single run can answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Texts = tuple[str, str]  # English, Indonesian


@dataclass(frozen=True)
class Experiment:
    """What a network is trained for.

    Attributes:
        number: of the experiment, 0 for none.
        title: what it is called in headings.
        question: of the experiment.
        reason: why the hypothesis is held.
        claim: of the course reports about two networks, where there is one.
        pretrained: the reason where the network starts from ImageNet's weights.
    """

    number: int
    title: str
    question: Texts
    reason: Texts
    claim: Texts | None = None
    pretrained: Texts | None = None


COMMON: Texts = (
    "The predictions are therefore right more often than always giving the more frequent answer, "
    "and the accuracy on the validation images reaches 90 %.",
    "Karena itu, prediksinya lebih sering benar daripada selalu memberi jawaban yang paling "
    "sering, dan akurasi pada citra validasi mencapai 90 %.",
)

COMMON_PHANTOM: Texts = (
    "The predictions are therefore right more often than always giving the more frequent answer.",
    "Karena itu, prediksinya lebih sering benar daripada selalu memberi jawaban yang paling "
    "sering.",
)

COMMON_FINDINGS: Texts = (
    "The mean AUC over the findings is therefore above 0.5.",
    "Karena itu, rerata AUC untuk semua temuan lebih dari 0,5.",
)

OTHER = Experiment(
    0,
    "{model}",
    (
        "How well does {model} tell cardiomegaly from pneumothorax on chest X-rays of {size} x "
        "{size} pixels?",
        "Seberapa baik {model} membedakan kardiomegali dari pneumotoraks pada foto rontgen dada "
        "berukuran {size} x {size} piksel?",
    ),
    (
        "The two classes differ in the picture, and {model} can learn the difference from "
        "{train_n} images.",
        "Kedua kelas tampak berbeda pada citra, dan {model} dapat mempelajari perbedaannya dari "
        "{train_n} citra.",
    ),
)

FROM_FILE: tuple[Texts, Texts] = (  # question and reason of a start from weights of one's own
    (
        "How well does {title} tell cardiomegaly from pneumothorax on images of {size} x {size} "
        "pixels, starting from {start}?",
        "Seberapa baik {title} membedakan kardiomegali dari pneumotoraks pada citra {size} x "
        "{size} piksel bila dimulai dari {start}?",
    ),
    (
        "What these weights have learnt is of use here, too, so that {train_n} images are enough "
        "to adapt the {parameters} parameters.",
        "Apa yang sudah dipelajari bobot itu juga berguna di sini, sehingga {train_n} citra cukup "
        "untuk menyesuaikan {parameters} parameternya.",
    ),
)

AVERAGES: dict[str, tuple[Texts, Texts]] = {  # question and reason, by what is averaged
    "seeds": (
        (
            "What do {members} networks of {model}, trained with different seeds, gain by having "
            "their predictions averaged?",
            "Apa yang diperoleh bila prediksi {members} jaringan {model}, yang dilatih dengan seed "
            "berbeda, dirata-ratakan?",
        ),
        (
            "The members err in part on different images, so that averaging cancels errors.",
            "Kesalahan para anggota sebagian terjadi pada citra yang berbeda, sehingga pererataan "
            "mengurangi kesalahan.",
        ),
    ),
    "folds": (
        (
            "How well does {model} do on images that it was not trained on, when each of "
            "{members} folds is left out once and all images of a patient are in one fold?",
            "Seberapa baik {model} pada citra yang tidak dipakai melatihnya, bila setiap fold "
            "dari {members} fold disisihkan satu kali dan semua citra seorang pasien berada di "
            "fold yang sama?",
        ),
        (
            "What a network learns from the other folds holds for the patients left out, too.",
            "Apa yang dipelajari jaringan dari fold lain juga berlaku untuk pasien yang "
            "disisihkan.",
        ),
    ),
    "runs": (
        (
            "What do {members} cross-validated runs of {model} gain by having their predictions "
            "averaged?",
            "Apa yang diperoleh bila prediksi dari {members} percobaan bervalidasi silang dengan "
            "{model} dirata-ratakan?",
        ),
        (
            "Different networks err in part on different images, so that averaging cancels errors.",
            "Kesalahan jaringan yang berbeda sebagian terjadi pada citra yang berbeda, sehingga "
            "pererataan mengurangi kesalahan.",
        ),
    ),
}

BASELINE = Experiment(
    0,
    "{model}",
    (
        "How far does one get without a network: {model}?",
        "Sejauh mana hasil yang dapat dicapai tanpa jaringan saraf, yaitu dengan {model}?",
    ),
    (
        "This is a baseline: a network is worth its cost only if it is better.",
        "Ini adalah pembanding dasar (baseline): sebuah jaringan sepadan dengan biayanya hanya "
        "jika hasilnya lebih baik.",
    ),
)

_FAMILY_QUESTION: Texts = (
    "How well does {title}, one of the 34-layer networks, tell cardiomegaly from pneumothorax when "
    "it is trained from scratch?",
    "Seberapa baik {title}, salah satu jaringan 34 lapis, membedakan kardiomegali dari "
    "pneumotoraks bila dilatih dari nol?",
)

_RANDOM_START: Texts = (
    "Even without pretrained weights, {train_n} images are enough to fit its {parameters} "
    "parameters to the task.",
    "Tanpa bobot pra-latih pun, {train_n} citra cukup untuk menyesuaikan {parameters} parameternya "
    "dengan tugas ini.",
)

_PRETRAINED: Texts = (
    "What the network has learnt from ImageNet's photographs is of use on X-rays, too, so that "
    "{train_n} images are enough to adapt its {parameters} parameters.",
    "Apa yang dipelajarinya dari foto-foto ImageNet juga berguna untuk foto rontgen, sehingga "
    "{train_n} citra cukup untuk menyesuaikan {parameters} parameternya.",
)

_OTHER_BACKBONE = Experiment(
    4,
    "{arch}",
    (
        "How well does {arch}, in the place of DenseNet-121, tell cardiomegaly from "
        "pneumothorax, starting from {start}?",
        "Seberapa baik {arch}, sebagai pengganti DenseNet-121, membedakan kardiomegali dari "
        "pneumotoraks bila dimulai dari {start}?",
    ),
    _RANDOM_START,
    pretrained=_PRETRAINED,
)

EXPERIMENTS: Mapping[str, Experiment] = {  # by class
    "EfficientChestNet": Experiment(
        1,
        "EfficientChestNet",
        (
            "How well does a small network of inverted bottlenecks with squeeze-and-excitation, "
            "trained from scratch, tell cardiomegaly from pneumothorax on images of {size} x "
            "{size} pixels?",
            "Seberapa baik jaringan kecil yang tersusun dari inverted bottleneck dengan "
            "squeeze-and-excitation, dilatih dari nol, membedakan kardiomegali dari pneumotoraks "
            "pada citra {size} x {size} piksel?",
        ),
        (
            "Depthwise convolutions and channel attention need few weights ({parameters}), which "
            "{train_n} images suffice to train.",
            "Konvolusi depthwise dan channel attention hanya memerlukan sedikit bobot "
            "({parameters}), yang cukup dilatih dengan {train_n} citra.",
        ),
    ),
    "ResidualChestNet": Experiment(
        2,
        "ResidualChestNet",
        (
            "How well does a residual network, trained from scratch on randomly warped images, "
            "tell cardiomegaly from pneumothorax on images of {size} x {size} pixels?",
            "Seberapa baik jaringan residual, dilatih dari nol dengan citra yang didistorsi secara "
            "acak, membedakan kardiomegali dari pneumotoraks pada citra {size} x {size} piksel?",
        ),
        (
            "Shortcuts make the network easy to train, and random warps keep it from memorising "
            "{train_n} images.",
            "Shortcut membuat jaringan mudah dilatih, dan distorsi acak mencegah jaringan "
            "menghafal {train_n} citra.",
        ),
    ),
    "MobileNetV3Chest": Experiment(
        3,
        "MobileNetV3-Large",
        (
            "How well does MobileNetV3-Large tell cardiomegaly from pneumothorax, starting from "
            "{start}?",
            "Seberapa baik MobileNetV3-Large membedakan kardiomegali dari pneumotoraks bila "
            "dimulai dari {start}?",
        ),
        _RANDOM_START,
        pretrained=_PRETRAINED,
    ),
    "DenseNet121Chest": Experiment(
        4,
        "DenseNet-121",
        (
            "How well does DenseNet-121 tell cardiomegaly from pneumothorax, starting from "
            "{start}?",
            "Seberapa baik DenseNet-121 membedakan kardiomegali dari pneumotoraks bila dimulai "
            "dari {start}?",
        ),
        _RANDOM_START,
        pretrained=_PRETRAINED,
    ),
    "TorchvisionChest": _OTHER_BACKBONE,
    "TimmChest": _OTHER_BACKBONE,
    "Plain34": Experiment(
        5,
        "Plain-34",
        _FAMILY_QUESTION,
        (
            "The network is ResNet-34 without shortcuts: what the shortcut does shows in the "
            "difference of the two.",
            "Jaringan ini adalah ResNet-34 tanpa shortcut: pengaruh shortcut terlihat dari selisih "
            "keduanya.",
        ),
        (
            "Plain-34 catches up with ResNet-34 after 30 to 50 epochs.",
            "Plain-34 menyusul ResNet-34 setelah 30 sampai 50 epoch.",
        ),
    ),
    "ResNet34": Experiment(
        5,
        "ResNet-34",
        _FAMILY_QUESTION,
        (
            "Shortcuts let the gradient reach all {parameters} weights; the other networks of the "
            "family are compared with this one.",
            "Shortcut membuat gradien sampai ke semua bobot ({parameters}); jaringan lain dalam "
            "keluarga ini dibandingkan dengan jaringan ini.",
        ),
    ),
    "SEResNet34": Experiment(
        6,
        "SE-ResNet-34",
        _FAMILY_QUESTION,
        (
            "Squeeze-and-excitation weights the channels of every block by the content of the "
            "image.",
            "Squeeze-and-excitation memberi bobot pada kanal setiap blok sesuai isi citra.",
        ),
        (
            "SE adds 1 to 3 points to the accuracy of ResNet-34.",
            "SE menaikkan akurasi ResNet-34 sebesar 1 sampai 3 poin.",
        ),
    ),
    "MishResNet34": Experiment(
        7,
        "Mish-ResNet-34",
        _FAMILY_QUESTION,
        (
            "Mish, which takes the place of ReLU, is smooth and lets gradients through for "
            "negative inputs.",
            "Mish, yang menggantikan ReLU, bersifat mulus dan tetap meneruskan gradien untuk "
            "masukan negatif.",
        ),
        (
            "Mish adds 0.5 to 2 points to the accuracy of ResNet-34.",
            "Mish menaikkan akurasi ResNet-34 sebesar 0,5 sampai 2 poin.",
        ),
    ),
    "ModifiedResNet34": Experiment(
        8,
        "Modified ResNet-34",
        _FAMILY_QUESTION,
        (
            "Pre-activation order, squeeze-and-excitation, dropout and SiLU are each meant to "
            "improve ResNet-34.",
            "Urutan pre-activation, squeeze-and-excitation, dropout, dan SiLU masing-masing "
            "dimaksudkan untuk memperbaiki ResNet-34.",
        ),
        (
            "The modified network is better than ResNet-34.",
            "Jaringan yang dimodifikasi lebih baik daripada ResNet-34.",
        ),
    ),
    "SEMishResNet34": Experiment(
        9,
        "SE-Mish-ResNet-34",
        _FAMILY_QUESTION,
        (
            "The network has both the channel attention of SE-ResNet-34 and the Mish of "
            "Mish-ResNet-34.",
            "Jaringan ini memiliki channel attention dari SE-ResNet-34 sekaligus Mish dari "
            "Mish-ResNet-34.",
        ),
    ),
}

RECIPES: Mapping[str, Texts] = {  # what a recipe is, by the name ``--recipe`` knows it by
    "best": (
        "`best`: chosen in this project by cross-validation",
        "`best`: dipilih dalam proyek ini dengan validasi silang",
    ),
    "report": (
        "`report`: the values of the course report",
        "`report`: nilai-nilai dari laporan praktikum asli",
    ),
    "scratch": (
        "`scratch`: for a start from random weights",
        "`scratch`: untuk memulai dari bobot acak",
    ),
    "transfer": (
        "`transfer`: for a start from ImageNet weights, all layers at once, with a low learning "
        "rate",
        "`transfer`: untuk memulai dari bobot ImageNet, semua lapisan sekaligus, dengan learning "
        "rate kecil",
    ),
    "cosine": (
        "`cosine`: a learning rate that falls along a cosine, from a course report",
        "`cosine`: learning rate turun mengikuti kosinus, dari salah satu laporan praktikum",
    ),
    "step": (
        "`step`: a learning rate that falls in steps, from a course report",
        "`step`: learning rate turun bertahap, dari salah satu laporan praktikum",
    ),
    "adamw": (
        "`adamw`: a constant learning rate, from a course report",
        "`adamw`: learning rate tetap, dari salah satu laporan praktikum",
    ),
}


def experiment_of(metrics: Mapping[str, Any]) -> Experiment:
    """The entry of a run's network, a baseline's, or `OTHER`."""
    if metrics.get("yardstick"):  # the file's key for a baseline
        return BASELINE
    return EXPERIMENTS.get(metrics["model"], OTHER)


def is_own(metrics: Mapping[str, Any]) -> bool:
    """Whether a run is of a network that is not of this project, and so of an own recipe."""
    return experiment_of(metrics) is OTHER and not metrics.get("blend")
