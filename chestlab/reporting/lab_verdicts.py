"""The sentences of a lab report on its figures, each with the rule that chooses it.

As in `lab_rules`: the first rule of a topic that holds gives its sentence.
"""

from __future__ import annotations

from chestlab.reporting.lab_rules import Rule, Topic, always, chose_nothing

FAR_APART_POINTS = 5.0  # between validation and test accuracy

UNEVEN = 0.10  # difference of sensitivity and specificity from which one class is called favoured

RESULT = {
    "result": Topic(
        ("n", "accuracy", "accuracy_low"),
        (
            Rule(
                lambda f: "auc_low" not in f,
                "On {n:,} {final} images the accuracy is **{accuracy:.1%}** (95 % confidence "
                "interval {accuracy_low:.1%} to {accuracy_high:.1%}). The AUC is undefined, "
                "because all outputs are the same.",
                "Pada {n:,} citra {final}, akurasinya **{accuracy:.1%}** (selang kepercayaan 95 %: "
                "{accuracy_low:.1%} s.d. {accuracy_high:.1%}). AUC-nya tidak terdefinisi karena "
                "semua keluaran sama.",
            ),
            Rule(
                lambda f: "patients" in f,
                "On {n:,} {final} images of {patients:,} patients the accuracy is "
                "**{accuracy:.1%}** (95 % confidence interval {accuracy_low:.1%} to "
                "{accuracy_high:.1%}) and the AUC **{auc:.3f}** ({auc_low:.3f} to {auc_high:.3f}).",
                "Pada {n:,} citra {final} dari {patients:,} pasien, akurasinya **{accuracy:.1%}** "
                "(selang kepercayaan 95 %: {accuracy_low:.1%} s.d. {accuracy_high:.1%}) dan "
                "AUC-nya **{auc:.3f}** ({auc_low:.3f} s.d. {auc_high:.3f}).",
            ),
            Rule(
                always,
                "On {n:,} {final} images the accuracy is **{accuracy:.1%}** (95 % confidence "
                "interval {accuracy_low:.1%} to {accuracy_high:.1%}) and the AUC **{auc:.3f}** "
                "({auc_low:.3f} to {auc_high:.3f}).",
                "Pada {n:,} citra {final}, akurasinya **{accuracy:.1%}** (selang kepercayaan 95 %: "
                "{accuracy_low:.1%} s.d. {accuracy_high:.1%}) dan AUC-nya **{auc:.3f}** "
                "({auc_low:.3f} s.d. {auc_high:.3f}).",
            ),
        ),
    ),
    "result_findings": Topic(
        ("n", "findings_n", "auc", "auc_low"),
        (
            Rule(
                always,
                "On {n:,} {final} images the mean AUC of {findings_n} findings is "
                "**{auc:.3f}** (95 % confidence interval {auc_low:.3f} to {auc_high:.3f}).",
                "Pada {n:,} citra {final}, rerata AUC dari {findings_n} temuan adalah "
                "**{auc:.3f}** (selang kepercayaan 95 %: {auc_low:.3f} s.d. {auc_high:.3f}).",
            ),
        ),
    ),
    "out_of_fold": Topic(
        ("oof_n", "oof_auc", "oof_auc_low", "oof_auc_high"),
        (
            Rule(
                lambda f: "oof_threshold" in f,
                "Out of fold, on the {oof_n:,} images of all folds together, the accuracy is "
                "{oof_accuracy:.1%} at the threshold {oof_threshold:.2f}, which was not chosen on "
                "them, and the AUC {oof_auc:.3f} ({oof_auc_low:.3f} to {oof_auc_high:.3f}). "
                "Recipes are compared by such figures: those to quote are of fresh folds "
                "(`studies.fresh_folds`).",
                "Pada prediksi out-of-fold ({oof_n:,} citra dari semua fold bersama), akurasinya "
                "{oof_accuracy:.1%} pada ambang {oof_threshold:.2f}, yang tidak dipilih dengan "
                "citra itu, dan AUC-nya {oof_auc:.3f} ({oof_auc_low:.3f} s.d. {oof_auc_high:.3f}). "
                "Resep dibandingkan dengan angka seperti ini: yang dikutip adalah angka fold baru "
                "(`studies.fresh_folds`).",
            ),
            Rule(
                always,
                "Out of fold, on the {oof_n:,} images of all folds together, the accuracy is "
                "{oof_accuracy:.1%}, at a threshold chosen on these images and so optimistic, and "
                "the AUC {oof_auc:.3f} ({oof_auc_low:.3f} to {oof_auc_high:.3f}). Recipes are "
                "compared by such figures: those to quote are of fresh folds "
                "(`studies.fresh_folds`).",
                "Pada prediksi out-of-fold ({oof_n:,} citra dari semua fold bersama), akurasinya "
                "{oof_accuracy:.1%}, yang optimistis karena ambangnya dipilih dengan citra itu, "
                "dan AUC-nya {oof_auc:.3f} ({oof_auc_low:.3f} s.d. {oof_auc_high:.3f}). Resep "
                "dibandingkan dengan angka seperti ini: yang dikutip adalah angka fold baru "
                "(`studies.fresh_folds`).",
            ),
        ),
    ),
    "untested": Topic(
        ("tested",),
        (
            Rule(
                lambda f: not f["tested"],
                "The test images were not evaluated.",
                "Citra uji tidak dievaluasi.",
            ),
        ),
    ),
    "goal_on_val": Topic(
        ("goal", "val_accuracy"),
        (
            Rule(
                lambda f: f["val_accuracy"] >= f["goal"],
                "The {goal:.0%} accuracy on the validation images that the course reports aim at "
                "was reached ({val_accuracy:.1%}), which is optimistic, since these images took "
                "part in choosing.",
                "Target laporan praktikum, yaitu akurasi {goal:.0%} pada citra validasi, tercapai "
                "({val_accuracy:.1%}); angka ini optimistis karena citra itu ikut dipakai untuk "
                "memilih.",
            ),
            Rule(
                always,
                "The {goal:.0%} accuracy on the validation images that the course reports aim at "
                "was not reached ({val_accuracy:.1%}).",
                "Target laporan praktikum, yaitu akurasi {goal:.0%} pada citra validasi, tidak "
                "tercapai ({val_accuracy:.1%}).",
            ),
        ),
    ),
}

EVALUATION = {
    "above_constant": Topic(
        ("lead_points", "lead_low", "lead_high", "constant_accuracy", "majority"),
        (
            Rule(
                lambda f: f["lead_low"] > 0,
                "The accuracy on the {final} images is {lead_points:.1f} points ({lead_low:.1f} to "
                "{lead_high:.1f}, paired by image) above the {constant_accuracy:.1%} of always "
                "answering {majority}.",
                "Akurasi pada citra {final} {lead_points:.1f} poin ({lead_low:.1f} s.d. "
                "{lead_high:.1f}, berpasangan per citra) di atas {constant_accuracy:.1%}, yaitu "
                "akurasi bila selalu menjawab {majority}.",
            ),
            Rule(
                lambda f: f["lead_high"] < 0,
                "The accuracy on the {final} images differs by {lead_points:.1f} points "
                "({lead_low:.1f} to {lead_high:.1f}, paired by image) from the "
                "{constant_accuracy:.1%} of always answering {majority}: it is lower.",
                "Akurasi pada citra {final} berselisih {lead_points:.1f} poin ({lead_low:.1f} s.d. "
                "{lead_high:.1f}, berpasangan per citra) dari {constant_accuracy:.1%}, yaitu "
                "akurasi bila selalu menjawab {majority}: lebih rendah.",
            ),
            Rule(
                always,
                "The accuracy on the {final} images differs by {lead_points:+.1f} points "
                "({lead_low:+.1f} to {lead_high:+.1f}, paired by image) from the "
                "{constant_accuracy:.1%} of always answering {majority}: by its accuracy it is not "
                "shown to be better than that.",
                "Akurasi pada citra {final} berselisih {lead_points:+.1f} poin ({lead_low:+.1f} "
                "s.d. {lead_high:+.1f}, berpasangan per citra) dari {constant_accuracy:.1%}, yaitu "
                "akurasi bila selalu menjawab {majority}: dari akurasinya belum terbukti lebih "
                "baik daripada itu.",
            ),
        ),
    ),
    "goal_in_interval": Topic(
        ("goal", "accuracy_low", "accuracy_high", "tested"),
        (
            Rule(lambda f: not f["tested"], "", ""),
            Rule(
                lambda f: f["accuracy_low"] >= f["goal"],
                "The whole interval is at or above {goal:.0%}.",
                "Seluruh selang itu sama dengan atau di atas {goal:.0%}.",
            ),
            Rule(
                lambda f: f["accuracy_high"] < f["goal"],
                "The goal of {goal:.0%} lies above the whole interval.",
                "Target {goal:.0%} berada di atas seluruh selang itu.",
            ),
            Rule(
                always,
                "The goal of {goal:.0%} lies within the interval, so these images neither show nor "
                "exclude it.",
                "Target {goal:.0%} termasuk dalam selang itu, sehingga citra uji ini tidak "
                "membuktikannya, tetapi juga tidak menyangkalnya.",
            ),
        ),
    ),
    "selection": Topic(
        ("val_minus_final_points", "val_accuracy", "accuracy", "epoch_chosen"),
        (
            Rule(chose_nothing, "", ""),
            Rule(
                lambda f: f["val_minus_final_points"] > FAR_APART_POINTS,
                "The validation accuracy is {val_minus_final_points:.1f} points above the test "
                "accuracy. Choices were made on the validation images, so that the test figure is "
                "the one to believe.",
                "Akurasi validasi {val_minus_final_points:.1f} poin di atas akurasi uji. Karena "
                "citra validasi ikut dipakai untuk memilih, angka uji yang sebaiknya dijadikan "
                "pegangan.",
            ),
            Rule(
                lambda f: f["val_minus_final_points"] < -FAR_APART_POINTS,
                "The validation accuracy is {val_below_points:.1f} points below the test accuracy, "
                "although choices were made on the validation images.",
                "Akurasi validasi {val_below_points:.1f} poin di bawah akurasi uji, padahal citra "
                "validasi ikut dipakai untuk memilih.",
            ),
            Rule(
                always,
                "Validation and test accuracy ({val_accuracy:.1%} and {accuracy:.1%}) are not more "
                "than {far_apart:.0f} points apart.",
                "Akurasi validasi dan akurasi uji ({val_accuracy:.1%} dan {accuracy:.1%}) "
                "berselisih tidak lebih dari {far_apart:.0f} poin.",
            ),
        ),
    ),
}

CONFUSION = {
    "classes": Topic(
        ("sensitivity", "specificity", "true_positives", "true_negatives"),
        (
            Rule(
                lambda f: abs(f["sensitivity"] - f["specificity"]) <= UNEVEN,
                "On the {final} images both classes are recognised about equally well: "
                "{true_positives:,} of {positives:,} images of pneumothorax (sensitivity "
                "{sensitivity:.1%}) and {true_negatives:,} of {negatives:,} of cardiomegaly "
                "(specificity {specificity:.1%}).",
                "Pada citra {final} kedua kelas dikenali hampir sama baiknya: {true_positives:,} "
                "dari {positives:,} citra pneumotoraks (sensitivitas {sensitivity:.1%}) dan "
                "{true_negatives:,} dari {negatives:,} citra kardiomegali (spesifisitas "
                "{specificity:.1%}).",
            ),
            Rule(
                lambda f: f["sensitivity"] > f["specificity"],
                "On the {final} images pneumothorax is recognised more often than cardiomegaly: "
                "{true_positives:,} of {positives:,} images (sensitivity {sensitivity:.1%}) "
                "against {true_negatives:,} of {negatives:,} (specificity {specificity:.1%}).",
                "Pada citra {final} pneumotoraks lebih sering dikenali daripada kardiomegali: "
                "{true_positives:,} dari {positives:,} citra (sensitivitas {sensitivity:.1%}) "
                "berbanding {true_negatives:,} dari {negatives:,} (spesifisitas "
                "{specificity:.1%}).",
            ),
            Rule(
                always,
                "On the {final} images cardiomegaly is recognised more often than pneumothorax: "
                "{true_negatives:,} of {negatives:,} images (specificity {specificity:.1%}) "
                "against {true_positives:,} of {positives:,} (sensitivity {sensitivity:.1%}).",
                "Pada citra {final} kardiomegali lebih sering dikenali daripada pneumotoraks: "
                "{true_negatives:,} dari {negatives:,} citra (spesifisitas {specificity:.1%}) "
                "berbanding {true_positives:,} dari {positives:,} (sensitivitas "
                "{sensitivity:.1%}).",
            ),
        ),
    ),
}

ROC = {
    "auc": Topic(
        ("accuracy",),
        (
            Rule(
                lambda f: "auc_low" not in f,
                "The outputs differ by less than float noise, so that their order means nothing "
                "and the AUC is undefined.",
                "Selisih antarkeluaran lebih kecil daripada galat pembulatan, sehingga urutannya "
                "tidak bermakna dan AUC-nya tidak terdefinisi.",
            ),
            Rule(
                lambda f: f["auc_low"] > 0.5,
                "On the {final} images the AUC is {auc:.3f} ({auc_low:.3f} to {auc_high:.3f}): of "
                "two images, one of each class, the one with pneumothorax gets the higher "
                "probability in {auc:.1%} of all pairs. Chance would be 0.5, which lies below the "
                "interval.",
                "Pada citra {final} AUC-nya {auc:.3f} ({auc_low:.3f} s.d. {auc_high:.3f}): dari "
                "semua pasangan citra berbeda kelas, citra pneumotoraks mendapat probabilitas "
                "lebih tinggi pada {auc:.1%} pasangan. Tebakan acak bernilai 0,5, yang berada di "
                "bawah selang itu.",
            ),
            Rule(
                lambda f: f["auc_high"] < 0.5,
                "On the {final} images the AUC is {auc:.3f} ({auc_low:.3f} to {auc_high:.3f}), and "
                "the whole interval lies below chance, 0.5: the order of the probabilities is "
                "reversed more often than not.",
                "Pada citra {final} AUC-nya {auc:.3f} ({auc_low:.3f} s.d. {auc_high:.3f}), dan "
                "seluruh selangnya di bawah tebakan acak, 0,5: urutan probabilitasnya lebih sering "
                "terbalik.",
            ),
            Rule(
                always,
                "On the {final} images the AUC is {auc:.3f} ({auc_low:.3f} to {auc_high:.3f}). The "
                "interval contains 0.5, so that it is not shown to be better than chance.",
                "Pada citra {final} AUC-nya {auc:.3f} ({auc_low:.3f} s.d. {auc_high:.3f}). Selang "
                "itu mencakup 0,5, sehingga belum terbukti lebih baik daripada tebakan acak.",
            ),
        ),
    ),
}

CALIBRATION = {
    "temperature": Topic(
        ("temperature",),
        (
            Rule(
                always,
                "The logits were divided by {temperature:.2f}, the temperature with the smallest "
                "loss on the validation images.",
                "Logit dibagi dengan temperature {temperature:.2f}, nilai dengan loss terkecil "
                "pada citra validasi.",
            ),
        ),
    ),
    "certainty": Topic(
        ("confidence", "accuracy_at_half", "overconfidence_low"),
        (
            Rule(
                lambda f: f["overconfidence_low"] > 0,
                "On the {final} images the more probable class has a probability of "
                "{confidence:.1%} on average and is the true one in {accuracy_at_half:.1%}: the "
                "network is overconfident by {overconfidence_points:.1f} points "
                "({overconfidence_low:.1f} to {overconfidence_high:.1f}).",
                "Pada citra {final}, kelas dengan probabilitas lebih besar rata-rata memiliki "
                "probabilitas {confidence:.1%}, tetapi hanya benar pada {accuracy_at_half:.1%} "
                "citra: jaringan terlalu yakin sebesar {overconfidence_points:.1f} poin "
                "({overconfidence_low:.1f} s.d. {overconfidence_high:.1f}).",
            ),
            Rule(
                lambda f: f["overconfidence_high"] < 0,
                "On the {final} images the more probable class has a probability of "
                "{confidence:.1%} on average and is the true one in {accuracy_at_half:.1%}: the "
                "network is underconfident by {underconfidence_points:.1f} points "
                "({underconfidence_low:.1f} to {underconfidence_high:.1f}).",
                "Pada citra {final}, kelas dengan probabilitas lebih besar rata-rata memiliki "
                "probabilitas {confidence:.1%}, padahal benar pada {accuracy_at_half:.1%} citra: "
                "jaringan terlalu ragu sebesar {underconfidence_points:.1f} poin "
                "({underconfidence_low:.1f} s.d. {underconfidence_high:.1f}).",
            ),
            Rule(
                always,
                "On the {final} images the more probable class has a probability of "
                "{confidence:.1%} on average and is the true one in {accuracy_at_half:.1%}. The "
                "difference, {overconfidence_points:+.1f} points ({overconfidence_low:+.1f} to "
                "{overconfidence_high:+.1f}), may be chance: neither over- nor underconfidence is "
                "shown.",
                "Pada citra {final}, kelas dengan probabilitas lebih besar rata-rata memiliki "
                "probabilitas {confidence:.1%} dan benar pada {accuracy_at_half:.1%} citra. "
                "Selisihnya, {overconfidence_points:+.1f} poin ({overconfidence_low:+.1f} s.d. "
                "{overconfidence_high:+.1f}), dapat terjadi karena kebetulan: belum terbukti "
                "terlalu yakin ataupun terlalu ragu.",
            ),
        ),
    ),
    "calibration_error": Topic(
        ("calibration_error", "error_by_chance"),
        (
            Rule(
                always,
                "The expected calibration error is {calibration_error:.3f}; of probabilities that "
                "are exactly right it would be {error_by_chance:.3f} on average, on as many "
                "images.",
                "Expected calibration error-nya {calibration_error:.3f}; untuk probabilitas yang "
                "tepat benar, nilainya rata-rata {error_by_chance:.3f} pada citra sebanyak ini.",
            ),
        ),
    ),
}

SINGLE_NETWORKS = {
    "single_temperature": Topic(
        ("single_temperature", "single_low", "single_high"),
        (
            Rule(
                always,
                "Out of fold, where each image is predicted by the one network that has not seen "
                "it, the loss is smallest when the logits are divided by "
                "{single_temperature:.2f} ({single_low:.2f} to {single_high:.2f}).",
                "Pada prediksi out-of-fold, yaitu setiap citra diprediksi oleh satu jaringan yang "
                "belum pernah melihatnya, loss terkecil diperoleh bila logit dibagi dengan "
                "{single_temperature:.2f} ({single_low:.2f} s.d. {single_high:.2f}).",
            ),
        ),
    ),
    "single_certainty": Topic(
        ("single_low", "single_high"),
        (
            Rule(
                lambda f: f["single_low"] > 1,
                "Single networks of this recipe are overconfident.",
                "Jaringan tunggal dengan resep ini terlalu yakin.",
            ),
            Rule(
                lambda f: f["single_high"] < 1,
                "Single networks of this recipe are underconfident.",
                "Jaringan tunggal dengan resep ini terlalu ragu.",
            ),
            Rule(
                always,
                "The interval contains 1: over- or underconfidence is not shown.",
                "Selang itu mencakup 1: belum terbukti terlalu yakin ataupun terlalu ragu.",
            ),
        ),
    ),
    "single_only": Topic(
        ("single_temperature",),
        (
            Rule(
                always,
                "This is a measurement of single networks of the recipe: the temperature is not "
                "applied to the average, whose averaging already makes probabilities less extreme.",
                "Ini pengukuran untuk jaringan tunggal dengan resep ini: temperature itu tidak "
                "diterapkan pada rerata, karena pererataan sudah membuat probabilitasnya kurang "
                "ekstrem.",
            ),
        ),
    ),
}

EXAMPLES = {
    "errors": Topic(
        ("val_wrong", "val_images", "val_certain_wrong", "certain"),
        (
            Rule(
                lambda f: f["val_wrong"] == 0,
                "All {val_images:,} validation images are predicted right.",
                "Semua {val_images:,} citra validasi diprediksi dengan benar.",
            ),
            Rule(
                lambda f: f["val_certain_wrong"] > 0,
                "{val_wrong:,} of the {val_images:,} validation images are predicted wrong, "
                "{val_certain_wrong:,} of them although the predicted class has a probability of "
                "{certain:.0%} or more.",
                "{val_wrong:,} dari {val_images:,} citra validasi diprediksi salah; "
                "{val_certain_wrong:,} di antaranya salah meskipun kelas prediksinya memiliki "
                "probabilitas {certain:.0%} atau lebih.",
            ),
            Rule(
                always,
                "{val_wrong:,} of the {val_images:,} validation images are predicted wrong, none "
                "of them with a probability of {certain:.0%} or more for the predicted class.",
                "{val_wrong:,} dari {val_images:,} citra validasi diprediksi salah, dan tidak ada "
                "yang kelas prediksinya memiliki probabilitas {certain:.0%} atau lebih.",
            ),
        ),
    ),
}

AVERAGE = {
    "members_alone": Topic(
        ("members", "member_auc_mean", "member_auc_sd", "member_split"),
        (
            Rule(
                always,
                "Alone, the {members} members have a mean AUC of {member_auc_mean:.3f} (standard "
                "deviation {member_auc_sd:.3f}) on the {member_split} images.",
                "Bila dievaluasi sendiri-sendiri, {members} anggotanya memiliki rerata AUC "
                "{member_auc_mean:.3f} (simpangan baku {member_auc_sd:.3f}) pada citra "
                "{member_split}.",
            ),
        ),
    ),
    "gain": Topic(
        ("gain_auc", "gain_auc_low", "gain_auc_high", "best_member"),
        (
            Rule(
                lambda f: f["gain_auc_low"] > 0,
                "On the {gain_split} images the AUC of the average is {gain_auc:+.3f} above that "
                "of the best member, {best_member} ({gain_auc_low:+.3f} to {gain_auc_high:+.3f}): "
                "on these images averaging helped.",
                "Pada citra {gain_split}, AUC rerata {gain_auc:+.3f} terhadap AUC anggota terbaik, "
                "{best_member} ({gain_auc_low:+.3f} s.d. {gain_auc_high:+.3f}): pada citra ini "
                "pererataan membantu.",
            ),
            Rule(
                lambda f: f["gain_auc_high"] < 0,
                "On the {gain_split} images the AUC of the average differs by {gain_auc:+.3f} from "
                "that of the best member, {best_member} ({gain_auc_low:+.3f} to "
                "{gain_auc_high:+.3f}): on these images averaging did harm.",
                "Pada citra {gain_split}, AUC rerata berselisih {gain_auc:+.3f} dari AUC anggota "
                "terbaik, {best_member} ({gain_auc_low:+.3f} s.d. {gain_auc_high:+.3f}): pada "
                "citra ini pererataan merugikan.",
            ),
            Rule(
                always,
                "On the {gain_split} images the AUC of the average differs by {gain_auc:+.3f} from "
                "that of the best member, {best_member} ({gain_auc_low:+.3f} to "
                "{gain_auc_high:+.3f}); the interval contains zero, so that no gain is shown.",
                "Pada citra {gain_split}, AUC rerata berselisih {gain_auc:+.3f} dari AUC anggota "
                "terbaik, {best_member} ({gain_auc_low:+.3f} s.d. {gain_auc_high:+.3f}); selangnya "
                "mencakup nol, sehingga belum terbukti ada kenaikan.",
            ),
        ),
    ),
}
