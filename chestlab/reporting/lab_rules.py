"""The sentences of a lab report on data and training, each with the rule that chooses it.

A topic is a list of rules in order; the first one that holds of the run's facts (`lab_facts`) gives
the topic's sentence, in English and in Indonesian. A topic without its facts says nothing. Numbers
are filled in by `lab_wording.LabWording.sentence`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chestlab.evaluation.alarms import TRAINING_GAP

BALANCED = 0.55  # share of the larger class up to which classes count as balanced

SHIFT = 0.05  # difference of a class's share between splits from which it is mentioned

LOSS_RISE = 0.10  # rise over the lowest validation loss that is more than its usual wavering

UNSETTLED = 3  # images by which the accuracy of the last epochs moves before it counts as unsettled

UNFITTED = 0.05  # accuracy on training images above the larger class's share that shows no learning

STATISTICS_LAG = 0.05  # of validation AUC; sound networks: 0.02

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """A sentence in two languages and when it is said."""

    holds: Callable[[Facts], bool]
    en: str
    id: str


@dataclass(frozen=True)
class Topic:
    """Rules of which the first that holds is used; without the facts ``needs`` none is."""

    needs: tuple[str, ...]
    rules: tuple[Rule, ...]

    def choose(self, facts: Facts) -> Rule | None:
        """The rule that holds; None where a fact is missing or no rule holds."""
        if any(name not in facts for name in self.needs):
            return None
        return next((rule for rule in self.rules if rule.holds(facts)), None)


def always(facts: Facts) -> bool:
    """Holds of every run that has the topic's facts."""
    return True


def chose_nothing(facts: Facts) -> bool:
    """Holds of outputs that are all the same, which no threshold tells apart, of a fixed epoch."""
    return "auc_low" not in facts and not facts["epoch_chosen"]


DATA = {
    "imbalance": Topic(
        ("majority", "majority_share", "class_ratio", "constant_accuracy"),
        (
            Rule(
                lambda f: f["majority_share"] >= BALANCED,
                "The classes are not balanced: {majority_n:,} of the {train_n:,} training images "
                "({majority_share:.1%}) show {majority}, {class_ratio:.2f} for each image of "
                "{minority}. A classifier that always answers {majority} would be right on "
                "{constant_accuracy:.1%} of the {final} images; the accuracies below are to be "
                "compared with that figure.",
                "Kelasnya tidak seimbang: {majority_n:,} dari {train_n:,} citra latih "
                "({majority_share:.1%}) berlabel {majority}, yaitu {class_ratio:.2f} kali jumlah "
                "citra {minority}. Pengklasifikasi yang selalu menjawab {majority} sudah benar "
                "pada {constant_accuracy:.1%} citra {final}; akurasi di bawah ini perlu "
                "dibandingkan dengan angka itu.",
            ),
            Rule(
                always,
                "The classes are nearly balanced: {majority_n:,} of the {train_n:,} training "
                "images ({majority_share:.1%}) show {majority}. A classifier that always answers "
                "{majority} would be right on {constant_accuracy:.1%} of the {final} images.",
                "Kelasnya hampir seimbang: {majority_n:,} dari {train_n:,} citra latih "
                "({majority_share:.1%}) berlabel {majority}. Pengklasifikasi yang selalu menjawab "
                "{majority} benar pada {constant_accuracy:.1%} citra {final}.",
            ),
        ),
    ),
    "shift": Topic(
        ("shift_of_shares",),
        (
            Rule(
                lambda f: f["shift_of_shares"] >= SHIFT,
                "The share of pneumothorax differs between the splits: {train_positive_share:.1%} "
                "in training, {val_positive_share:.1%} in validation, {test_positive_share:.1%} "
                "in test.",
                "Proporsi pneumotoraks berbeda antarbagian data: {train_positive_share:.1%} pada "
                "data latih, {val_positive_share:.1%} pada data validasi, dan "
                "{test_positive_share:.1%} pada data uji.",
            ),
        ),
    ),
}

TRAINING = {
    "stages": Topic(
        ("stage1_epochs",),
        (
            Rule(
                lambda f: f["stage1_epochs"] > 0,
                "Training had two stages: in the first {stage1_epochs} epochs only the classifier "
                "was trained, with the backbone frozen, and in the {stage2_epochs} epochs after "
                "that the whole network.",
                "Pelatihan terdiri atas dua tahap: pada {stage1_epochs} epoch pertama hanya "
                "pengklasifikasi yang dilatih (backbone dibekukan), lalu pada {stage2_epochs} "
                "epoch berikutnya seluruh jaringan dilatih.",
            ),
        ),
    ),
    "stopped": Topic(
        ("epochs_run", "planned_epochs", "best_epoch", "stage1_epochs", "patience", "monitor"),
        (
            Rule(
                lambda f: f["monitor"] == "monitor_last",
                "All {epochs_run} epochs were run and the weights of the last one are kept, so no "
                "epoch was chosen on the validation images.",
                "Seluruh {epochs_run} epoch dijalankan dan bobot epoch terakhir yang dipakai, "
                "sehingga tidak ada epoch yang dipilih dengan citra validasi.",
            ),
            Rule(
                lambda f: 0 < f["best_epoch"] <= f["stage1_epochs"],
                "The epoch with the best {monitor} is epoch {best_epoch}, still in the first "
                "stage; training the whole network brought nothing better. Training ended after "
                "epoch {epochs_run} of at most {planned_epochs}.",
                "Epoch dengan {monitor} terbaik adalah epoch ke-{best_epoch}, yang masih berada "
                "pada tahap pertama; melatih seluruh jaringan tidak menghasilkan yang lebih baik. "
                "Pelatihan berakhir setelah epoch ke-{epochs_run} dari maksimum {planned_epochs}.",
            ),
            Rule(
                lambda f: f["epochs_run"] < f["planned_epochs"],
                "Training stopped early, after epoch {epochs_run} of at most {planned_epochs}, "
                "because {patience} epochs in a row had brought no better {monitor}. The weights "
                "of epoch {best_epoch}, the best one, are kept.",
                "Pelatihan berhenti lebih awal (early stopping), yaitu setelah epoch "
                "ke-{epochs_run} dari maksimum {planned_epochs}, karena {monitor} tidak membaik "
                "selama {patience} epoch berturut-turut. Bobot yang dipakai adalah bobot epoch "
                "terbaik, epoch ke-{best_epoch}.",
            ),
            Rule(
                lambda f: f["best_epoch"] == f["epochs_run"],
                "All {epochs_run} epochs were run. The last one had the best {monitor} and is "
                "kept; this run cannot show whether further epochs would have been better still.",
                "Seluruh {epochs_run} epoch dijalankan. Epoch terakhir memiliki {monitor} terbaik "
                "dan bobotnya yang dipakai; percobaan ini tidak dapat menunjukkan apakah epoch "
                "tambahan akan lebih baik lagi.",
            ),
            Rule(
                always,
                "All {epochs_run} epochs were run. Epoch {best_epoch} had the best {monitor} and "
                "is kept; no later epoch was better.",
                "Seluruh {epochs_run} epoch dijalankan. Epoch ke-{best_epoch} memiliki {monitor} "
                "terbaik dan bobotnya yang dipakai; tidak ada epoch sesudahnya yang lebih baik.",
            ),
        ),
    ),
    "losses": Topic(
        ("first_train_loss", "kept_train_loss", "first_val_loss", "kept_val_loss", "best_epoch"),
        (
            Rule(lambda f: f["best_epoch"] == 1, "", ""),
            Rule(
                lambda f: f["kept_train_loss"] < f["first_train_loss"],
                "From the first epoch to the kept one the training loss fell from "
                "{first_train_loss:.3f} to {kept_train_loss:.3f}; the validation loss went from "
                "{first_val_loss:.3f} to {kept_val_loss:.3f}.",
                "Dari epoch pertama sampai epoch yang dipakai, loss pelatihan turun dari "
                "{first_train_loss:.3f} menjadi {kept_train_loss:.3f}, sedangkan loss validasi "
                "berubah dari {first_val_loss:.3f} menjadi {kept_val_loss:.3f}.",
            ),
            Rule(
                always,
                "The training loss did not fall: it was {first_train_loss:.3f} in the first epoch "
                "and {kept_train_loss:.3f} in the kept one.",
                "Loss pelatihan tidak turun: {first_train_loss:.3f} pada epoch pertama dan "
                "{kept_train_loss:.3f} pada epoch yang dipakai.",
            ),
        ),
    ),
    "val_loss": Topic(
        ("epochs_run", "lowest_val_loss", "val_loss_rise", "train_loss_at_lowest", "warned"),
        (
            Rule(lambda f: f["epochs_run"] == 1, "", ""),
            Rule(
                lambda f: f["lowest_val_loss_epoch"] == f["epochs_run"],
                "The validation loss was lowest in the last epoch ({last_val_loss:.3f}): the loss "
                "shows no overfitting.",
                "Loss validasi paling rendah justru pada epoch terakhir ({last_val_loss:.3f}): "
                "dari loss tidak tampak overfitting.",
            ),
            Rule(
                lambda f: f["val_loss_rise"] > LOSS_RISE and f["warned"],
                "The validation loss was lowest in epoch {lowest_val_loss_epoch} "
                "({lowest_val_loss:.3f}) and {val_loss_rise:.0%} higher in the last one "
                "({last_val_loss:.3f}); the training loss went from {train_loss_at_lowest:.3f} to "
                "{last_train_loss:.3f} in that time. The warnings above may explain it.",
                "Loss validasi paling rendah pada epoch ke-{lowest_val_loss_epoch} "
                "({lowest_val_loss:.3f}), lalu {val_loss_rise:.0%} lebih tinggi pada epoch "
                "terakhir ({last_val_loss:.3f}); selama itu loss pelatihan berubah dari "
                "{train_loss_at_lowest:.3f} menjadi {last_train_loss:.3f}. Penyebabnya mungkin "
                "dijelaskan oleh peringatan di atas.",
            ),
            Rule(
                lambda f: (
                    f["val_loss_rise"] > LOSS_RISE
                    and f["last_train_loss"] < f["train_loss_at_lowest"]
                ),
                "The validation loss was lowest in epoch {lowest_val_loss_epoch} "
                "({lowest_val_loss:.3f}) and {val_loss_rise:.0%} higher in the last one "
                "({last_val_loss:.3f}), while the training loss went on falling from "
                "{train_loss_at_lowest:.3f} to {last_train_loss:.3f}: a sign of overfitting.",
                "Loss validasi paling rendah pada epoch ke-{lowest_val_loss_epoch} "
                "({lowest_val_loss:.3f}), lalu {val_loss_rise:.0%} lebih tinggi pada epoch "
                "terakhir ({last_val_loss:.3f}), sementara loss pelatihan terus turun dari "
                "{train_loss_at_lowest:.3f} menjadi {last_train_loss:.3f}: ini gejala "
                "overfitting.",
            ),
            Rule(
                lambda f: f["val_loss_rise"] > LOSS_RISE,
                "The validation loss was lowest in epoch {lowest_val_loss_epoch} "
                "({lowest_val_loss:.3f}) and {val_loss_rise:.0%} higher in the last one "
                "({last_val_loss:.3f}); the training loss did not fall in that time "
                "({train_loss_at_lowest:.3f}, then {last_train_loss:.3f}), so that overfitting "
                "does not explain it.",
                "Loss validasi paling rendah pada epoch ke-{lowest_val_loss_epoch} "
                "({lowest_val_loss:.3f}), lalu {val_loss_rise:.0%} lebih tinggi pada epoch "
                "terakhir ({last_val_loss:.3f}). Selama itu loss pelatihan juga tidak turun "
                "({train_loss_at_lowest:.3f}, kemudian {last_train_loss:.3f}), sehingga kenaikan "
                "ini bukan karena overfitting.",
            ),
            Rule(
                always,
                "The validation loss was lowest in epoch {lowest_val_loss_epoch} "
                "({lowest_val_loss:.3f}) and ended at {last_val_loss:.3f}, {val_loss_rise:.0%} "
                "above that: the loss shows no overfitting.",
                "Loss validasi paling rendah pada epoch ke-{lowest_val_loss_epoch} "
                "({lowest_val_loss:.3f}) dan berakhir pada {last_val_loss:.3f}, yaitu "
                "{val_loss_rise:.0%} di atasnya: dari loss tidak tampak overfitting.",
            ),
        ),
    ),
    "settled": Topic(
        ("window", "window_low", "window_high", "window_images"),
        (
            Rule(lambda f: f["window"] < 3, "", ""),
            Rule(
                lambda f: f["window_images"] == 0,
                "Over the last {window} epochs the validation accuracy stayed at "
                "{window_high:.1%}.",
                "Selama {window} epoch terakhir akurasi validasi tetap {window_high:.1%}.",
            ),
            Rule(
                lambda f: f["window_images"] >= UNSETTLED,
                "Over the last {window} epochs the validation accuracy still moved between "
                "{window_low:.1%} and {window_high:.1%}. One validation image is "
                "{one_image_points:.1f} points, so the difference between two epochs says little.",
                "Selama {window} epoch terakhir akurasi validasi masih naik turun antara "
                "{window_low:.1%} dan {window_high:.1%}. Satu citra validasi setara dengan "
                "{one_image_points:.1f} poin, jadi selisih antara dua epoch tidak banyak artinya.",
            ),
            Rule(
                always,
                "Over the last {window} epochs the validation accuracy stayed between "
                "{window_low:.1%} and {window_high:.1%} (one validation image is "
                "{one_image_points:.1f} points): it had settled.",
                "Selama {window} epoch terakhir akurasi validasi berada di antara "
                "{window_low:.1%} dan {window_high:.1%} (satu citra validasi setara dengan "
                "{one_image_points:.1f} poin), artinya sudah stabil.",
            ),
        ),
    ),
    "goal_in_epochs": Topic(
        ("goal", "epochs_at_goal", "highest_val_accuracy", "epochs_run"),
        (
            Rule(
                lambda f: f["epochs_at_goal"] == 0,
                "In no epoch did the validation accuracy, at a threshold of 0.5, reach "
                "{goal:.0%}; it was highest in epoch {highest_val_accuracy_epoch} with "
                "{highest_val_accuracy:.1%}.",
                "Akurasi validasi pada ambang 0,5 tidak pernah mencapai {goal:.0%}; nilai "
                "tertingginya {highest_val_accuracy:.1%}, pada epoch "
                "ke-{highest_val_accuracy_epoch}.",
            ),
            Rule(
                always,
                "At a threshold of 0.5 the validation accuracy reached {goal:.0%} in "
                "{epochs_at_goal} of {epochs_run} epochs, first in epoch {first_epoch_at_goal}; "
                "it was highest in epoch {highest_val_accuracy_epoch} with "
                "{highest_val_accuracy:.1%}.",
                "Pada ambang 0,5, akurasi validasi mencapai {goal:.0%} pada "
                "{epochs_at_goal} dari {epochs_run} epoch, pertama kali pada epoch "
                "ke-{first_epoch_at_goal}; nilai tertingginya {highest_val_accuracy:.1%}, pada "
                "epoch ke-{highest_val_accuracy_epoch}.",
            ),
        ),
    ),
    "statistics": Topic(
        ("running_auc", "estimated_auc", "estimated_minus_running"),
        (
            Rule(
                lambda f: f["estimated_minus_running"] > STATISTICS_LAG,
                "With batch-norm statistics estimated on the training images, the same weights "
                "have a validation AUC of {estimated_auc:.3f} instead of {running_auc:.3f} (single "
                "pass): the running averages lag behind the weights.",
                "Dengan statistik batch norm yang dihitung pada citra latih, bobot yang sama "
                "memiliki AUC validasi {estimated_auc:.3f}, bukan {running_auc:.3f} (satu kali "
                "prediksi): rerata berjalannya tertinggal dari bobotnya.",
            ),
            Rule(
                always,
                "With batch-norm statistics estimated on the training images, the same weights "
                "have a validation AUC of {estimated_auc:.3f}, and with the running averages that "
                "are used here {running_auc:.3f} (single pass).",
                "Dengan statistik batch norm yang dihitung pada citra latih, bobot yang sama "
                "memiliki AUC validasi {estimated_auc:.3f}, sedangkan dengan rerata berjalan yang "
                "dipakai di sini {running_auc:.3f} (satu kali prediksi).",
            ),
        ),
    ),
    "gap": Topic(
        ("gap_points", "gap_margin_points", "train_accuracy", "constant_train_accuracy"),
        (
            Rule(
                lambda f: (
                    f["train_accuracy"] < f["constant_train_accuracy"] + UNFITTED
                    and f.get("kept_train_accuracy", 0) > f["train_accuracy"] + TRAINING_GAP
                ),
                "The finished network is right on {train_accuracy:.1%} of the images it was "
                "trained on, while always giving one answer would be right on "
                "{constant_train_accuracy:.1%}. While the kept epoch was trained, however, "
                "{kept_train_accuracy:.1%} were right: the network is another one in evaluation "
                "than in training, and its figures say nothing until the cause is known.",
                "Jaringan yang sudah dilatih benar pada {train_accuracy:.1%} citra latih, padahal "
                "satu jawaban yang sama untuk semua citra sudah benar pada "
                "{constant_train_accuracy:.1%}. Namun saat epoch yang dipakai itu dilatih, "
                "akurasinya {kept_train_accuracy:.1%}: jaringan ini berperilaku lain saat evaluasi "
                "daripada saat pelatihan, dan angkanya tidak bermakna sampai penyebabnya "
                "diketahui.",
            ),
            Rule(
                lambda f: f["train_accuracy"] < f["constant_train_accuracy"] + UNFITTED,
                "The finished network is right on {train_accuracy:.1%} of the images it was "
                "trained on, while always giving one answer would be right on "
                "{constant_train_accuracy:.1%}: it has not learnt the training images. On the "
                "validation images it is right on {val_accuracy:.1%}.",
                "Jaringan yang sudah dilatih benar pada {train_accuracy:.1%} citra latih, padahal "
                "satu jawaban yang sama untuk semua citra sudah benar pada "
                "{constant_train_accuracy:.1%}: jaringan ini belum mempelajari citra latihnya "
                "(underfitting). Pada citra validasi akurasinya {val_accuracy:.1%}.",
            ),
            Rule(
                lambda f: f["gap_points"] > f["gap_margin_points"],
                "The finished network is right on {train_accuracy:.1%} of the images it was "
                "trained on and on {val_accuracy:.1%} of the validation images. This gap of "
                "{gap_points:.1f} points is more than chance explains (two standard errors are "
                "{gap_margin_points:.1f} points): part of what it has learnt holds for the "
                "training images alone.",
                "Jaringan yang sudah dilatih benar pada {train_accuracy:.1%} citra latih dan "
                "{val_accuracy:.1%} citra validasi. Selisih {gap_points:.1f} poin ini lebih besar "
                "daripada yang dapat terjadi secara kebetulan (dua galat baku adalah "
                "{gap_margin_points:.1f} poin): sebagian dari yang dipelajari hanya berlaku untuk "
                "citra latih.",
            ),
            Rule(
                lambda f: f["gap_points"] < -f["gap_margin_points"],
                "The finished network is right on {train_accuracy:.1%} of the images it was "
                "trained on and on {val_accuracy:.1%} of the validation images. The difference is "
                "more than chance explains (two standard errors are {gap_margin_points:.1f} "
                "points): the validation images are easier, or the choices made on them favour "
                "them.",
                "Jaringan yang sudah dilatih benar pada {train_accuracy:.1%} citra latih dan "
                "{val_accuracy:.1%} citra validasi. Selisihnya lebih besar daripada yang dapat "
                "terjadi secara kebetulan (dua galat baku adalah {gap_margin_points:.1f} poin): "
                "citra validasi lebih mudah, atau diuntungkan karena dipakai untuk memilih.",
            ),
            Rule(
                always,
                "The finished network is right on {train_accuracy:.1%} of the images it was "
                "trained on and on {val_accuracy:.1%} of the validation images. On this "
                "many images a difference of up to {gap_margin_points:.1f} points (two standard "
                "errors) can be chance, so the difference of {gap_points:.1f} points alone neither "
                "shows nor excludes overfitting.",
                "Jaringan yang sudah dilatih benar pada {train_accuracy:.1%} citra latih dan "
                "{val_accuracy:.1%} citra validasi. Dengan jumlah citra ini, selisih sampai "
                "{gap_margin_points:.1f} poin (dua galat baku) masih bisa terjadi secara "
                "kebetulan, sehingga selisih {gap_points:.1f} poin itu saja tidak membuktikan "
                "overfitting, tetapi juga tidak menyangkalnya.",
            ),
        ),
    ),
}
