"""The sentences of the page of the 34-layer family, in two languages."""

from __future__ import annotations

FAMILY_MESSAGES: dict[str, tuple[str, str]] = {
    "family_two_class": ("cardiomegaly or pneumothorax", "kardiomegali atau pneumotoraks"),
    "family_findings": ("all 14 findings", "keempat belas temuan"),
    "family_network": ("network", "jaringan"),
    "family_train": ("train {measure}", "{measure} latih"),
    "family_val": ("val {measure}, as selected", "{measure} validasi, hasil pemilihan"),
    "family_gap": ("gap", "selisih"),
    "family_test": ("test {measure}, held out (95 %)", "{measure} uji, tidak ikut memilih (95 %)"),
    "family_test_auc": ("test AUC (95 %)", "AUC uji (95 %)"),
    "family_macs": ("MACs", "MAC"),
    "family_memory": ("training memory", "memori saat latih"),
    "accuracy": ("accuracy", "akurasi"),
    "auc": ("AUC", "AUC"),
    "mean_auc": ("mean AUC", "rerata AUC"),
    "points": ("{n} points", "{n} poin"),
    "none": ("none", "tidak ada"),
    "or": (" or ", " atau "),
    "with_seed": ("{name} with seed {seed}", "{name} dengan seed {seed}"),
    "hypothesis_se": ("SE adds 1 to 3 points", "SE menambah 1 sampai 3 poin"),
    "hypothesis_mish": ("Mish adds 0.5 to 2 points", "Mish menambah 0,5 sampai 2 poin"),
    "hypothesis_modified": (
        "Modified is better than ResNet-34",
        "Modified lebih baik daripada ResNet-34",
    ),
    "hypothesis_plain": (
        "Plain-34 catches up with ResNet-34 after 30 to 50 epochs",
        "Plain-34 menyusul ResNet-34 setelah 30 sampai 50 epoch",
    ),
    "note_lengths": (
        "the runs stopped at different epochs ({low} to {high})",
        "percobaannya berhenti pada epoch yang berbeda ({low} sampai {high})",
    ),
    "note_short": ("run for {n} epochs only", "hanya dijalankan {n} epoch"),
    "note_seed": ("one seed", "hanya satu seed"),
    "after_epoch": ("val after epoch {n}", "validasi setelah epoch {n}"),
    "measured": ("{images} {measure}", "{measure} {images}"),
    "family_decided": (
        "{hypothesis}: {verdict}, {gain} points",
        "{hypothesis}: {verdict}, {gain} poin",
    ),
    "head_hypothesis": ("hypothesis", "hipotesis"),
    "head_measured_on": ("measured on", "diukur dengan"),
    "head_gain_points": ("gain in points (95 %)", "kenaikan dalam poin (95 %)"),
    "head_smallest": ("smallest detectable", "terkecil yang terdeteksi"),
    "head_p_holm": ("p, Holm", "p, Holm"),
    "head_verdict": ("verdict", "putusan"),
    "head_verdict_holm": ("verdict, Holm", "putusan, Holm"),
    "head_reduction": ("reduction", "reduksi"),
    "head_val_auc_selected": (
        "val AUC, as selected (95 %)",
        "AUC validasi, hasil pemilihan (95 %)",
    ),
    "head_gain_over_no_se": (
        "test gain over no SE in points (95 %)",
        "kenaikan uji atas tanpa SE dalam poin (95 %)",
    ),
    "reduction_alike": (
        "No difference from no SE is shown (Holm's correction for {n}).",
        "Tidak terlihat perbedaan dari tanpa SE (koreksi Holm untuk {n}).",
    ),
    "reduction_differs": (
        "{reductions}: differs from no SE (Holm's correction for {n}).",
        "{reductions}: berbeda dari tanpa SE (koreksi Holm untuk {n}).",
    ),
    "reduction_untested": (
        "No difference from no SE was tested.",
        "Perbedaan dari tanpa SE tidak diuji.",
    ),
    "no_se": ("no SE", "tanpa SE"),
    "gradients_start": ("at initialisation", "pada inisialisasi"),
    "gradients_best": ("after training", "setelah pelatihan"),
    "gradient_ratios": (
        "Gradient in the first convolution over that in the last: {ratios} (geometric means over "
        "seeds).",
        "Gradien pada konvolusi pertama dibagi gradien pada konvolusi terakhir: {ratios} (rerata "
        "geometrik antar-seed).",
    ),
    "silent_meaning": (
        "A unit is a channel of an activation layer. It is silent when the slope of its "
        "activation is below {slope} in magnitude at every position of every validation image: "
        "for ReLU, when its output is 0 everywhere.",
        "Satu unit adalah satu kanal pada lapisan aktivasi. Unit disebut diam bila besar gradien "
        "aktivasinya di bawah {slope} pada setiap posisi di setiap citra validasi: untuk ReLU, "
        "bila keluarannya selalu 0.",
    ),
    "silent_none": (
        "No unit of {names} is silent in any layer or seed.",
        "Tidak ada unit {names} yang diam, di lapisan mana pun dan dengan seed mana pun.",
    ),
    "silent_means": (
        "Silent units, mean over layers and seeds: {means}.",
        "Unit yang diam, rerata atas lapisan dan seed: {means}.",
    ),
}
