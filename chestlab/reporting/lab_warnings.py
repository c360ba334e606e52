"""Indonesian for the warnings of a run, which `metrics.json` holds as English sentences.

A pattern for every sentence of `evaluation.alarms`, of the run's own checks and of `data.leaks`.
Numbers and names are taken over, numbers with a decimal comma.
"""

from __future__ import annotations

import re

NUMBER = r"[-+]?\d[\d.e+-]*"

REMEDY = "coba nilai --lr, --ema, dan --epochs yang lain (docs/training.md)"

TRY = REMEDY.replace("coba", "coba --batch-norm estimated, atau")

LAG = ": statistik batch norm atau rerata bobot tertinggal"  # left out without batch norm

PATTERNS: tuple[tuple[str, str], ...] = (
    (
        r"member (?P<name>\S+): (?P<rest>.*)",
        "anggota {name}: {rest}",
    ),
    (
        r"(?P<name>`[^`]+`): (?P<rest>.*)",
        "{name}: {rest}",
    ),
    (
        rf"outputs are nearly constant: the middle 90 % of the logits span (?P<spans>.*?)"
        rf"(?: \(while training, accuracy reached (?P<reached>{NUMBER})%\))?; such figures .*",
        "keluarannya hampir sama untuk semua citra: 90 % logit yang di tengah merentang {spans}"
        "{reached}; angka seperti ini tidak membuktikan apa pun tentang apa yang dapat "
        f"dipelajari: {TRY}",
    ),
    (
        r"(?P<classes>every image of .*), so that accuracy is that class's share.*",
        "{classes}, sehingga akurasi sama dengan proporsi kelas itu: " + TRY,
    ),
    (
        rf"training images are (?P<evaluated>{NUMBER})% right in evaluation and were "
        rf"(?P<training>{NUMBER})% right while training \(epoch (?P<epoch>\d+)\).*",
        "citra latih benar {evaluated} % saat evaluasi, padahal {training} % saat pelatihan "
        "(epoch ke-{epoch})" + f"{LAG}: {TRY}",
    ),
    (
        rf"the training loss is flat: (?P<first>{NUMBER}) in the first of (?P<epochs>\d+) epochs, "
        rf"(?P<lowest>{NUMBER}) at its lowest: .*",
        "loss pelatihan datar: {first} pada epoch pertama dari {epochs} epoch, paling rendah "
        "{lowest}: cari learning rate dengan --find-lr (docs/training.md)",
    ),
    (
        rf"with batch-norm statistics estimated on training images the same weights have a val AUC "
        rf"of (?P<estimated>{NUMBER}), with running averages (?P<running>undefined|{NUMBER}): .*",
        "dengan statistik batch norm yang dihitung pada citra latih, bobot yang sama memiliki AUC "
        "validasi {estimated}, sedangkan dengan rerata berjalan {running}: rerata itu tertinggal: "
        "coba --batch-norm estimated",
    ),
    (
        r"(?P<first>\w+) and (?P<second>\w+) share (?P<shared>.*): figures on \w+ may be too good",
        "data {first} dan data {second} sama-sama memuat {shared}: angka pada data {second} "
        "mungkin terlalu baik",
    ),
    (
        r"all (?P<n>\d+) images of (?P<split>\w+) are of one patient: .*",
        "semua {n} citra pada data {split} berasal dari satu pasien: selangnya, yang mengambil "
        "ulang pasien, tidak memiliki lebar",
    ),
    (
        r"patients are unknown: (?P<name>\S+) is (?P<value>.*), not like NIH's 00000013_005\.png, "
        r"and there is no (?P<array>\w+); .*",
        "pasiennya tidak diketahui: {name} berisi {value}, tidak seperti nama berkas NIH "
        "00000013_005.png, dan tidak ada {array}; selang mengambil ulang citra, dan citra seorang "
        "pasien mungkin berada di beberapa fold",
    ),
)

WORDS = (  # within what the patterns take over
    (r"every image of ", "semua citra "),
    (r" is predicted as cardiomegaly", " diprediksi sebagai kardiomegali"),
    (r" is predicted as pneumothorax", " diprediksi sebagai pneumotoraks"),
    (r"\bpatients?\b", "pasien"),
    (r"\bfile names?\b", "nama berkas"),
    (r"\bidentical images?\b", "citra yang identik"),
    (r"\bimages\b", "citra"),
    (r"\band\b", "dan"),
    (r"\bon fold (\d+) of repeat (\d+)", r"pada fold \1 ulangan \2"),
    (r"\bfold (\d+) of repeat (\d+)", r"fold \1 ulangan \2"),
    (r"\bon (train|val|test|oof)\b", r"pada \1"),
    (r"\btrain\b", "latih"),
    (r"\bval\b", "validasi"),
    (r"\btest\b", "uji"),
    (r"\bundefined\b", "tidak terdefinisi"),
    (r"(\d)\.(\d)", r"\1,\2"),
)

VERBATIM = ("name", "value", "array", "rest")  # groups that are taken over as they are


def in_indonesian(warning: str) -> str | None:
    """The warning in Indonesian, or None where no pattern knows it."""
    for pattern, text in PATTERNS:
        match = re.fullmatch(pattern, warning)
        if match is None:
            continue
        parts = match.groupdict()
        if "rest" in parts:
            parts["rest"] = in_indonesian(parts["rest"])
            return None if parts["rest"] is None else text.format(**parts)
        if "reached" in parts:
            reached = parts["reached"]
            parts["reached"] = (
                f" (saat pelatihan akurasinya mencapai {reached} %)" if reached else ""
            )
        if "--batch-norm" not in warning:
            text = text.replace(LAG, "").replace(TRY, REMEDY)
        if few := re.search(r"try more epochs \(only (\d+) were trained\), ", warning):
            text = text.replace(": coba ", f": coba lebih banyak epoch (baru {few[1]}), ")
        return text.format(
            **{
                key: value if key in VERBATIM else _translated(value)
                for key, value in parts.items()
            }
        )
    return None


def warning_in(language: str, warning: str) -> str:
    """The warning in a page's language; as it is where no pattern knows it."""
    return (language == "id" and in_indonesian(warning)) or warning


def _translated(text: str) -> str:
    for pattern, word in WORDS:
        text = re.sub(pattern, word, text)
    return text
