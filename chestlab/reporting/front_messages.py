"""The sentences of the first page of results and of the pages behind it, in two languages."""

from __future__ import annotations

FRONT_MESSAGES: dict[str, tuple[str, str]] = {
    "front_task": (
        "Which of two findings does a chest X-ray show, cardiomegaly (class 0) or pneumothorax "
        "(class 1)?",
        "Temuan mana yang tampak pada foto rontgen dada: kardiomegali (kelas 0) atau pneumotoraks "
        "(kelas 1)?",
    ),
    "front_data": (
        "The images, `{source}`, are a subset of ChestMNIST, not its official file: {n} X-rays of "
        "NIH ChestX-ray14 with exactly one of the two findings, in ChestMNIST's split and with its "
        "labels{link}.",
        "Citranya, `{source}`, adalah subset ChestMNIST, bukan berkas resminya: {n} foto rontgen "
        "NIH ChestX-ray14 dengan tepat satu dari kedua temuan itu, dengan pembagian dan label "
        "ChestMNIST{link}.",
    ),
    "front_data_link": (
        " ([how the file was made, and what could not be checked]({page}))",
        " ([cara berkas itu dibuat dan yang tidak dapat diperiksa, dalam bahasa Inggris]({page}))",
    ),
    "front_intro": (
        "This is not a medical device, and nothing here says anything about a patient. Written by "
        "`python visualize.py` from the files of the runs.",
        "Ini bukan alat medis, dan tidak satu pun angka di sini menerangkan kondisi pasien "
        "tertentu. Dihasilkan oleh `python visualize.py --lang id` dari berkas percobaan.",
    ),
    "best_fresh": (
        "**Best so far: {best}, with an AUC of {auc} and an accuracy of {accuracy}** on [fresh "
        "folds]({page}): {repeats} x {folds}-fold cross-validation over the {of} of train and val "
        "in `{source}`, in other divisions than those on which recipes were chosen. As the highest "
        "of {rows} rows these figures are optimistic ({measured} configurations were measured).",
        "**Terbaik sejauh ini: {best}, dengan AUC {auc} dan akurasi {accuracy}** pada [fold "
        "baru]({page}): validasi silang {folds} fold yang diulang {repeats} kali atas {of} (train "
        "dan val) dalam `{source}`, dengan pembagian yang berbeda dari yang dipakai untuk memilih "
        "resep. Sebagai yang tertinggi dari {rows} baris, angka ini optimistis ({measured} "
        "konfigurasi diukur di sana).",
    ),
    "other_size": (
        "**From a file of the same X-rays in another size,** `{source}`, the network and the "
        "average with the highest AUC [on the same folds]({page}): {rows}.",
        "**Dari berkas foto rontgen yang sama dalam ukuran lain,** `{source}`, jaringan dan rerata "
        "dengan AUC tertinggi [pada fold yang sama]({page}): {rows}.",
    ),
    "other_size_row": (
        "`{name}`{besides} with an AUC of {auc} and an accuracy of {accuracy}",
        "`{name}`{besides} dengan AUC {auc} dan akurasi {accuracy}",
    ),
    "of_sizes": (
        ", with networks on the smaller images besides,",
        ", yang memuat juga jaringan pada citra yang lebih kecil,",
    ),
    "best_val": (
        "**Not measured yet on fresh folds.** Highest AUC on validation images, which also choose "
        "the threshold and most recipes' epoch: {best}, {auc}, on {of} from `{source}`.",
        "**Belum diukur pada fold baru.** AUC tertinggi pada citra validasi, yang juga memilih "
        "ambang dan, pada kebanyakan resep, epoch: {best}, {auc}, pada {of} dari `{source}`.",
    ),
    "lead_certain": (
        "Its AUC is above that of {others}: p is below 0.05 after Holm's correction for its {n} "
        "differences.",
        "AUC-nya di atas {others}: p di bawah 0,05 setelah koreksi Holm atas {n} selisihnya.",
    ),
    "leads_title": (
        "The lead of the best row over the others, in numbers",
        "Keunggulan baris terbaik atas yang lain, dalam angka",
    ),
    "leads_note": (
        "Differences in AUC on fresh folds with 95 % intervals; Holm: corrected for all rows of "
        "this table. The best row was picked as the highest first, which these p do not allow for.",
        "Selisih AUC pada fold baru dengan selang 95 %; Holm: dikoreksi untuk semua baris tabel "
        "ini. Baris terbaik lebih dulu dipilih sebagai yang tertinggi; p ini tidak memperhitungkan "
        "pemilihan itu.",
    ),
    "head_lead_over": ("over", "atas"),
    "head_lead": ("AUC, difference", "AUC, selisih"),
    "unmeasured": (
        "{n} networks of the table are not measured there yet, so one of them may be better.",
        "{n} jaringan di tabel belum diukur di sana, jadi salah satunya mungkin lebih baik.",
    ),
    "lead_uncertain": (
        "Its lead may be chance over {others}; it is therefore not bold.",
        "Keunggulannya atas {others} mungkin kebetulan saja; karena itu angkanya tidak tebal.",
    ),
    "goal_reached": (
        "**Validation accuracy of {goal}, the goal of the course reports:** reached by {names}."
        " This is optimistic, since these images took part in choosing the threshold and, by "
        "cross-validation over train and val, the recipes ({of}).",
        "**Akurasi validasi {goal}, target laporan praktikum:** dicapai oleh {names}. Angka "
        "ini optimistis, karena citra itu ikut dipakai untuk memilih ambang dan, dengan validasi "
        "silang atas train dan val, resepnya ({of}).",
    ),
    "goal_missed": (
        "**Validation accuracy of {goal}, the goal of the course reports:** reached by no run; "
        "the highest is {name} ({of}).",
        "**Akurasi validasi {goal}, target laporan praktikum:** tidak dicapai oleh satu "
        "percobaan pun; yang tertinggi {name} ({of}).",
    ),
    "test_missed": (
        "**On test no run reaches {goal}:** the highest of all {n} runs is {name}, on {of}; "
        "{looks}.",
        "**Pada data uji belum ada yang mencapai {goal}:** yang tertinggi dari semua {n} "
        "percobaan adalah {name}, pada {of}; {looks}.",
    ),
    "best_of_runs": (
        "Of {n} runs these are the highest, which is optimistic as well.",
        "Itu yang tertinggi dari {n} percobaan, yang juga membuatnya optimistis.",
    ),
    "looks_in_sentence": (
        "recorded evaluations of these images: {n}",
        "evaluasi atas citra ini yang tercatat: {n}",
    ),
    "goal_inside": (
        "{goal} lies within the interval: so few images neither show nor exclude it.",
        "{goal} masih di dalam selang: citra sesedikit itu tidak membuktikan dan tidak "
        "menyangkalnya.",
    ),
    "goal_above": (
        "The interval lies below {goal}.",
        "Selangnya berada di bawah {goal}.",
    ),
    "seeds_in_sentence": (
        "experiment {number} with the report's recipe",
        "eksperimen {number} dengan resep laporan",
    ),
    "experiment_in_sentence": ("experiment {number} ({name})", "eksperimen {number} ({name})"),
    "test_reached": (
        "**On test {goal} is reached** by {names}, on {of}; {looks}.",
        "**Pada data uji {goal} dicapai** oleh {names}, pada {of}; {looks}.",
    ),
    "helped": (
        "**What helped**, after Holm's correction for the number of comparisons in each study "
        "(gain in AUC with its 95 % interval): {gains}.",
        "**Yang meningkatkan hasil**, setelah koreksi Holm untuk banyaknya perbandingan di "
        "setiap studi (kenaikan AUC dengan selang 95 %): {gains}.",
    ),
    "helped_fresh": (
        "{where}{switch}: {gain} on fresh folds",
        "{where}{switch}: {gain} pada fold baru",
    ),
    "helped_choice": (
        "{where}{switch}, on choice folds, whose figures are not to be quoted",
        "{where}{switch}, pada fold pemilihan, yang angkanya tidak untuk dikutip",
    ),
    "in_network": ("in {net}, ", "pada {net}, "),
    "switch_in": ("{switch}, tried in {recipe}", "{switch}, dicoba pada {recipe}"),
    "switch_recipe": (
        "recipe {name} instead of {base}",
        "resep {name} sebagai ganti {base}",
    ),
    "changed_recipe": ("`{name}` with `{changes}`", "`{name}` dengan `{changes}`"),
    "switch_single": ("`{name}` ({text})", "`{name}` ({text})"),
    "helped_nothing": (
        "**What helped:** no switch has an effect beyond chance after Holm's correction.",
        "**Yang meningkatkan hasil:** setelah koreksi Holm, tidak ada opsi resep yang pengaruhnya "
        "lebih dari sekadar kebetulan.",
    ),
    "with_accuracy": ("{name} with {accuracy}", "{name} dengan {accuracy}"),
    "images_of_patients": ("{n} images of {patients} patients", "{n} citra dari {patients} pasien"),
    "images_only": ("{n} images", "{n} citra"),
    "mean_of_seeds": (
        "{number}, report's recipe ({n} seeds)",
        "{number}, resep laporan ({n} seed)",
    ),
    "from_start": ("{label} from {start}", "{label} dari {start}"),
    "average_of": ("Average of {of}", "Rerata {of}"),
    "average_of_networks": (
        "the average of experiments {of} ({n} networks)",
        "rerata eksperimen {of} ({n} jaringan)",
    ),
    "average_in_sentence": ("the average of experiments {of}", "rerata eksperimen {of}"),
    "folds_in_sentence": ("{name} (average of {n} networks)", "{name} (rerata {n} jaringan)"),
    "out_of_fold_in_sentence": ("{name}, out of fold", "{name}, out-of-fold"),
    "and": (" and ", " dan "),
    "head_experiment": ("experiment", "eksperimen"),
    "head_fresh_auc": ("AUC,<br>fresh folds", "AUC,<br>fold baru"),
    "head_fresh_accuracy": ("accuracy,<br>fresh folds", "akurasi,<br>fold baru"),
    "head_val_selected": ("val accuracy,<br>as selected", "akurasi validasi,<br>hasil pemilihan"),
    "head_test_acc": ("test accuracy", "akurasi uji"),
    "not_measured": ("not measured yet", "belum diukur"),
    "decided_there": (
        "This average was added when the figures of its networks there were known, one of which "
        "had its learning rate lowered after a training had failed there.",
        "Rerata ini ditambahkan setelah angka jaringannya di sana diketahui, dan learning rate "
        "salah satunya diturunkan setelah satu pelatihan di sana gagal.",
    ),
    "below_front": (
        "In brackets: 95 % intervals, resampling {unit}; on fresh folds, if repeated, they include "
        "the variance between trainings, elsewhere they are of networks as trained once. ±: "
        'standard deviation over seeds. "As selected": the same images chose epoch or threshold.',
        "Dalam kurung: selang 95 % dengan bootstrap per {unit}; pada fold baru, bila diulang, "
        "termasuk varians antarpelatihan, di kolom lain hanya untuk jaringan hasil satu kali "
        'latih. ±: simpangan baku antarseed. "Hasil pemilihan": epoch atau ambang dipilih dengan '
        "citra yang sama.",
    ),
    "bold": (
        "**Bold**: the highest of its column, and the interval of its difference to every other "
        "figure there is above zero (on fresh folds: p below 0.05 after Holm's correction)",
        "**Tebal**: tertinggi di kolomnya, dan selang selisihnya terhadap setiap angka lain di "
        "sana berada di atas nol (pada fold baru: p di bawah 0,05 setelah koreksi Holm)",
    ),
    "warned": (
        "(!): has warnings, on its page or on that of the fresh folds",
        "(!): ada peringatan, di halamannya atau di halaman fold baru",
    ),
    "nothing_bold": (
        "Nothing is bold: the highest of each column may lead by chance",
        "Tidak ada yang tebal: keunggulan angka tertinggi di setiap kolom mungkin kebetulan",
    ),
    "undefined": ("undefined", "tak terdefinisi"),
    "average_note": (
        "{label}: on fresh folds of one network each, on val of the networks that did not train "
        "on the image (out of fold), on test of all {n}",
        "{label}: pada fold baru masing-masing satu jaringan, pada validasi jaringan yang tidak "
        "dilatih dengan citra itu (out-of-fold), pada data uji semuanya, yaitu {n}",
    ),
    "random_start_mark": ("random weights", "bobot acak"),
    "random_start_in_sentence": ("{name} from random weights", "{name} dari bobot acak"),
    "random_start_note": (
        "From random weights, not the report's experiment, which starts from ImageNet's: {labels}",
        "Dimulai dari bobot acak, bukan eksperimen laporan yang dimulai dari bobot ImageNet: "
        "{labels}",
    ),
    "own_start_note": (
        "From weights of an earlier training: {labels}",
        "Dimulai dari bobot pelatihan sebelumnya: {labels}",
    ),
    "imagenet_start_note": (
        "From ImageNet's weights: {labels}",
        "Dimulai dari bobot ImageNet: {labels}",
    ),
    "size_note": (
        '"{size} px": the same X-rays, from a file with {size} x {size} pixels',
        '"{size} px": foto rontgen yang sama, dari berkas {size} x {size} piksel',
    ),
    "picture_front": (
        "The figures of the table as points with 95 % intervals, against the best baseline",
        "Angka tabel sebagai titik dengan selang 95 %, beserta pembanding terbaik",
    ),
    "more_pages": (
        "More: [how figures are computed, every run, pairs, the best row's lead, "
        "costs, looks at test]({details}){studies}",
        "Selengkapnya: [cara angka dihitung, setiap percobaan, pasangan, keunggulan baris "
        "terbaik, biaya, evaluasi data uji]({details}){studies}",
    ),
    "more_studies": (
        " · [studies: what each switch does, more images, fresh folds]({file})",
        " · [studi: pengaruh setiap opsi resep, lebih banyak citra, fold baru]({file})",
    ),
    "other_data": (
        "Runs on other images: {sources}.",
        "Percobaan pada citra lain: {sources}.",
    ),
    "more_rows": (
        "{n} more networks are on the [page of all runs]({details}).",
        "{n} jaringan lain ada di [halaman semua percobaan]({details}).",
    ),
    "axis_fresh_auc": ("AUC on fresh folds", "AUC pada fold baru"),
    "axis_val_auc": ("AUC on validation images, as selected", "AUC validasi, hasil pemilihan"),
    "axis_test_accuracy": ("test accuracy (%)", "akurasi uji (%)"),
    "legend_goal": ("{goal} % goal of the reports", "target laporan {goal} %"),
    "legend_baseline": ("best baseline", "pembanding terbaik"),
    "legend_network": ("network", "jaringan"),
    "legend_seeds": (
        "mean of seeds, line: ± sd, no interval",
        "rerata seed, garis: ± sb, bukan selang",
    ),
    "legend_average": ("average of networks", "rerata jaringan"),
    "legend_classical": ("baseline", "pembanding klasik"),
    "title_front": (
        "Experiments and baselines with 95 % intervals\n{source} · {counts}",
        "Eksperimen dan pembanding dengan selang 95 %\n{source} · {counts}",
    ),
    "counts_fresh": ("fresh folds n = {n}", "fold baru n = {n}"),
    "counts_val": ("val n = {n}", "validasi n = {n}"),
    "counts_test": ("test n = {n}", "uji n = {n}"),
    "details_title": (
        "All runs and how figures are computed",
        "Semua percobaan dan cara hitungnya",
    ),
    "back": ("Back to the results", "Kembali ke hasil"),
    "files_title": ("Files of each run", "Berkas setiap percobaan"),
    "studies_title": ("Studies", "Studi"),
    "studies_intro": (
        "Each study asks one question on shared folds and answers it on its own page. Figures on "
        "choice folds serve to choose; only those on fresh folds and on test may be quoted.",
        "Setiap studi menjawab satu pertanyaan pada fold yang sama, di halamannya sendiri. "
        "Angka pada fold pemilihan dipakai untuk memilih; yang boleh dikutip hanyalah angka "
        "pada fold baru dan pada data uji.",
    ),
    "study_files_title": ("Files of each study", "Berkas setiap studi"),
    "english_page": ("in English", "dalam bahasa Inggris"),
}

SWITCHES_IN_INDONESIAN = {  # what the switches of `studies.ablation` do, by their names
    "autoaugment": "operasi AutoAugment",
    "cosine": "kosinus setelah pemanasan",
    "cutmix": "menempelkan potongan citra lain dan mencampur label",
    "drop-path": "melewati cabang residual secara acak",
    "ema": "merata-ratakan bobot dari seratus langkah terakhir",
    "erase": "menutup satu persegi panjang pada seperempat citra",
    "estimated-statistics": "menaksir ulang statistik batch norm setelah setiap epoch",
    "flip": "mencerminkan separuh citra",
    "focal": "focal loss, yang mengutamakan citra sulit",
    "freeze": "membekukan paruh pertama backbone",
    "frozen-statistics": "mempertahankan statistik batch norm dari bobot awal",
    "jitter": "mengubah kecerahan dan kontras sampai 20 %",
    "last": "mengambil epoch terakhir dan melatih dengan semua citra",
    "layer-decay": "learning rate lebih kecil untuk lapisan awal",
    "mixup": "mencampur pasangan citra dan label",
    "onecycle": "learning rate satu siklus",
    "per-image": "menormalkan setiap citra dengan rerata dan simpangan bakunya sendiri",
    "pos-weight": "bobot yang menyeimbangkan kedua kelas",
    "pos-weight-report": "bobot seperti yang ditulis dalam laporan",
    "randaugment": "operasi acak RandAugment",
    "related": "melatih juga dengan citra yang memiliki temuan lain",
    "restarts": "kosinus dengan warm restart",
    "rotate": "memutar sampai 10 derajat",
    "sampler": "mengambil kedua kelas sama sering",
    "shift": "menggeser sampai 10 % sisi citra",
    "size-128": "masukan 128 px",
    "size-64": "masukan 64 px",
    "smoothing": "target 0,05 dan 0,95",
    "smote": "interpolasi citra dari kelas yang lebih jarang",
    "stem-mean": "rerata bobot ketiga warna di konvolusi pertama, bukan jumlahnya",
    "tta-flip": "rerata dengan logit citra cermin",
    "tta-warps": "rerata atas citra cermin dan distorsi acak",
    "two-stages": "melatih pengklasifikasi saja selama 10 epoch pertama",
    "vertical-flip": "membalik separuh citra atas-bawah",
    "zoom": "memperbesar atau memperkecil sampai 10 %",
}
