"""Every sentence of the pages of results but the lab reports', in English and Indonesian."""

from __future__ import annotations

from chestlab.reporting.family_messages import FAMILY_MESSAGES
from chestlab.reporting.front_messages import FRONT_MESSAGES

LANGUAGES = ("en", "id")

MESSAGES: dict[str, tuple[str, str]] = FRONT_MESSAGES | {
    "language": ("English", "Bahasa Indonesia"),
    "title": ("Results", "Hasil"),
    "protocol_title": ("How the numbers are chosen", "Cara angka-angka ini dipilih"),
    "protocol": (
        "Networks are fitted to the training images. The epoch and the decision threshold are "
        "chosen on the validation images, recipes by cross-validation over train and val, so "
        '"val, as selected" is optimistic (where the recipe says "last", no epoch is chosen). The '
        "test images are evaluated once per run, at that epoch and that threshold: "
        '"test, held out" is the figure of a run to quote; for a recipe, that is the one on the '
        "fresh folds.",
        "Jaringan dilatih dengan citra latih. Epoch dan ambang keputusan dipilih dengan citra "
        "validasi, resep dengan validasi silang atas citra latih dan validasi, sehingga angka "
        '"validasi, hasil pemilihan" terlalu optimistis (bila '
        'resepnya menyebut "last", tidak ada epoch yang dipilih). Citra uji dievaluasi satu kali '
        'per percobaan, pada epoch dan ambang tersebut: angka "uji, tidak ikut memilih" inilah '
        "yang patut dikutip untuk satu run; untuk resep, angka pada fold baru.",
    ),
    "reading": (
        "The positive class is pneumothorax. Rows are sorted by validation AUC, with the baselines "
        "below; sorting them by test would be a choice made on test. A test figure is **bold** "
        "only if it is the highest of its table and the 95 % interval of its paired difference to "
        "every other row lies above zero by more than twice its Monte-Carlo error (both models "
        "resampled together, by patients where they are known; without a correction for the number "
        "of comparisons).",
        "Kelas positif adalah pneumotoraks. Baris diurutkan menurut AUC validasi, dengan "
        "pembanding dasar (baseline) di bagian bawah; mengurutkan menurut data uji berarti memilih "
        "dengan data uji. Angka uji dicetak **tebal** hanya jika angka itu yang tertinggi di "
        "tabelnya dan selang 95 % dari selisih berpasangannya terhadap setiap baris lain berada di "
        "atas nol lebih dari dua kali galat Monte Carlo-nya (kedua model di-bootstrap bersama, per "
        "pasien bila pasiennya diketahui; tanpa koreksi untuk banyaknya perbandingan).",
    ),
    "images_seen": (
        "images seen in training,<br>relative to the base",
        "citra yang dilihat saat pelatihan,<br>relatif terhadap resep dasar",
    ),
    "ablation_title": (
        "Effect of each switch: {net}, recipe {recipe}",
        "Pengaruh setiap opsi: {net}, resep {recipe}",
    ),
    "ablation": (
        "What each switch changes: figures with it less those without it, also where the base "
        "(recipe {recipe_name}) has it already. On {source}, by {repeats} x {folds}-fold "
        "cross-validation over train and val, grouped by patient, on the choice folds: "
        "recipes are chosen on them, so no figure here is to be quoted as a result. Paired, with "
        "95 % intervals; means of single networks. Verdicts are on the AUC, {comparisons} "
        "comparisons, without and with Holm's correction for their number (supported: the switch "
        "raises it, refuted: lowers it); detectable is the true gain that 80 % of such "
        "experiments would find. Details:",
        "Hasil dengan setiap opsi dikurangi hasil tanpa opsi itu, pada {source}, dengan validasi "
        "silang {folds} fold yang diulang {repeats} kali pada data latih dan validasi, "
        "dikelompokkan per pasien. Resep dasarnya {recipe_name}. Fold ini adalah fold pemilihan: "
        "resep dipilih dengannya, sehingga angka di sini bukan hasil yang boleh dikutip. Selisih "
        "berpasangan dengan selang 95 %; rerata jaringan tunggal. Putusan menurut AUC, "
        "{comparisons} perbandingan, tanpa dan dengan koreksi Holm untuk banyaknya perbandingan "
        "(didukung: opsi itu menaikkannya, ditolak: menurunkannya); "
        '"terdeteksi" adalah kenaikan sebenarnya yang akan ditemukan oleh 80 % percobaan '
        "seperti ini. Selengkapnya:",
    ),
    "switch": ("switch", "opsi"),
    "gain_auc": ("gain in AUC (95 %)", "kenaikan AUC (95 %)"),
    "gain_accuracy": ("gain in accuracy (95 %)", "kenaikan akurasi (95 %)"),
    "verdict": ("verdict", "putusan"),
    "verdict_holm": ("verdict,<br>Holm", "putusan,<br>Holm"),
    "detectable": ("detectable<br>gain in AUC", "kenaikan AUC<br>terdeteksi"),
    "ablation_base": ("what all others are compared with", "pembanding semua baris lain"),
    "ablation_recipe": ("all of recipe {name}", "seluruh resep {name}"),
    "ablation_start": ("start from {name}", "mulai dari bobot {name}"),
    "network_with_recipe": (
        "{name} with recipe {recipe} of `{script}.py`",
        "{name} dengan resep {recipe} dari `{script}.py`",
    ),
    "beyond_chance": ("more than chance", "bukan sekadar kebetulan"),
    "maybe_chance": ("which may be chance", "mungkin kebetulan saja"),
    "single_repeat": (
        "undecided with a single repeat",
        "belum dapat disimpulkan karena hanya satu ulangan",
    ),
    "extrapolated": ("*extrapolated*", "*ekstrapolasi*"),
    "epoch_of": ("{epoch} of {epochs}", "{epoch} dari {epochs}"),
    "mean": ("mean", "rerata"),
    "sd": ("sd", "simpangan baku"),
    "on_in_base": ("on in the base", "aktif dalam resep dasar"),
    "all_winners": ("all winners together", "semua opsi yang unggul sekaligus"),
    "phantom": (
        "The images of these runs are generated by a program. Their numbers say nothing about "
        "X-rays; they show that the programs run.",
        "Citra pada percobaan ini dibuat oleh program. Angkanya tidak menyatakan apa pun tentang "
        "foto rontgen; angka itu hanya menunjukkan bahwa programnya berjalan.",
    ),
    "names": (
        "File name of each image in the NIH data set",
        "Nama berkas setiap citra dalam himpunan data NIH",
    ),
    "train": ("train", "latih"),
    "val": ("val", "validasi"),
    "test": ("test", "uji"),
    "split": ("split", "bagian"),
    "together": ("together", "jumlah"),
    "cardiomegaly": ("cardiomegaly", "kardiomegali"),
    "pneumothorax": ("pneumothorax", "pneumotoraks"),
    "table_title": ("All runs", "Semua percobaan"),
    "head_run": ("run", "percobaan"),
    "head_val_accuracy": ("val accuracy,<br>as selected", "akurasi validasi,<br>hasil pemilihan"),
    "head_goal": ("val 90 %<br>reached", "validasi 90 %<br>tercapai"),
    "head_val_auc": ("val AUC", "AUC validasi"),
    "head_test_accuracy": ("test accuracy,<br>held out", "akurasi uji,<br>tidak ikut memilih"),
    "head_test_auc": ("test AUC", "AUC uji"),
    "head_parameters": ("parameters", "parameter"),
    "head_time": ("training time", "waktu latih"),
    "head_looks": ("looks at test<br>by this network", "evaluasi data uji<br>oleh jaringan ini"),
    "costs_title": ("Cost of each network", "Biaya setiap jaringan"),
    "head_arithmetic": ("million multiply-<br>accumulates", "juta operasi<br>kali-tambah"),
    "head_memory": ("memory in<br>training, MB", "memori saat<br>latih, MB"),
    "head_checkpoint": ("checkpoint,<br>MB", "checkpoint,<br>MB"),
    "below_costs": (
        "Multiply-accumulates are those of one image at the network's input size. Training time "
        "includes early stopping; for an average, the times of all members are added. It depends "
        "on the machine that the run was made on and on its other load, so it compares no two "
        "networks. Memory: tensors of one training step.",
        "Operasi kali-tambah dihitung untuk satu citra pada ukuran masukan jaringan. Waktu latih "
        "termasuk penghentian dini; untuk sebuah rerata, waktu semua anggotanya dijumlahkan. "
        "Waktu ini bergantung pada mesin tempat percobaan dijalankan dan pada beban lain di mesin "
        "itu, jadi bukan perbandingan antarjaringan. Memori: tensor pada satu langkah latih.",
    ),
    "interval": ("({low} to {high})", "({low} s.d. {high})"),
    "yes": ("yes", "ya"),
    "no": ("no", "tidak"),
    "seed": ("seed {seed}", "seed {seed}"),
    "random_start": (  # `weights.RANDOM_MARK`
        "random initialisation, not the report's experiment",
        "inisialisasi acak, bukan eksperimen dalam laporan",
    ),
    "average_of_seeds": ("average of {n} seeds", "rerata {n} seed"),
    "average_of_folds": ("average of {n} folds", "rerata {n} fold"),
    "average_of_runs": ("average of {n} runs", "rerata {n} percobaan"),
    "members_alone": (
        "Members of run {run} alone on test, mean ± standard deviation: accuracy {accuracy}, AUC "
        "{auc}.",
        "Anggota percobaan {run} sendiri-sendiri pada data uji, rerata ± simpangan baku: akurasi "
        "{accuracy}, AUC {auc}.",
    ),
    "patient": ("patients", "pasien"),
    "image": ("images", "citra"),
    "baseline_majority": ("Majority class", "Kelas mayoritas"),
    "baseline_logistic_pixels": (
        "Logistic regression on pixels",
        "Regresi logistik pada piksel",
    ),
    "baseline_hog_linear_svm": ("HOG + linear SVM", "HOG + SVM linear"),
    "baseline_hog_rbf_svm": ("HOG + RBF SVM", "HOG + SVM RBF"),
    "baseline_probe_logistic": (
        "{network} features, {side} px + logistic regression",
        "Fitur {network}, {side} px + regresi logistik",
    ),
    "baseline_probe_svm": (
        "{network} features, {side} px + RBF SVM",
        "Fitur {network}, {side} px + SVM RBF",
    ),
    "below_table": (
        "Val and test figures are of the network as it is used: with the recipe's test-time "
        "augmentation, at the threshold chosen on val; training curves show a single pass at 0.5."
        " In brackets: 95 % bootstrap intervals, which resample {unit} (of few they are a little "
        "too narrow). The last column counts how often the network was evaluated on these test "
        "images, see below: of many, the highest is partly luck.",
        "Angka validasi dan uji berlaku untuk jaringan sebagaimana dipakai: dengan augmentasi "
        "saat uji dari resepnya, pada ambang yang dipilih dengan data validasi; kurva pelatihan "
        "menampilkan satu kali prediksi pada ambang 0,5. Dalam kurung: selang bootstrap 95 % "
        "dengan pengambilan ulang per {unit} (agak terlalu sempit bila jumlahnya sedikit). Kolom "
        "terakhir menghitung berapa kali jaringan itu dievaluasi pada citra uji ini, lihat di "
        "bawah: dari banyak percobaan, angka tertinggi sebagian adalah keberuntungan.",
    ),
    "below_table_folds": (
        "Averages of folds (#{runs}): each val image is predicted only by networks that did not "
        "train on it (out of fold), and the threshold is chosen on all out-of-fold images; on test "
        "all networks are averaged.",
        "Rerata fold (#{runs}): setiap citra validasi hanya diprediksi oleh jaringan yang tidak "
        "dilatih dengan citra itu (out-of-fold), dan ambangnya dipilih dengan semua citra "
        "out-of-fold; pada data uji semua jaringan dirata-ratakan.",
    ),
    "looks_title": ("Looks at test", "Evaluasi pada data uji"),
    "head_network": ("network", "jaringan"),
    "head_recipe": ("recipe", "resep"),
    "head_looks_of_recipe": ("looks at<br>test", "evaluasi<br>data uji"),
    "head_kinds": ("of these", "di antaranya"),
    "head_versions": ("versions of<br>the recipe", "versi<br>resep"),
    "head_reconstructed": ("recon-<br>structed", "direkon-<br>struksi"),
    "look_run": ("single runs", "percobaan tunggal"),
    "look_member": ("members of averages or studies", "anggota rerata atau studi"),
    "look_stage": ("stages of runs", "tahap percobaan"),
    "look_average": ("averages", "rerata"),
    "look_blend": ("averages of several networks", "rerata beberapa jaringan"),
    "look_baseline": ("baselines", "pembanding"),
    "look_explain": ("Grad-CAM of test images", "Grad-CAM citra uji"),
    "look_mistakes": ("pages of the wrong predictions", "halaman prediksi yang salah"),
    "versions_changed": ("{n}: changed after a look", "{n}: diubah setelah evaluasi"),
    "other_looks": (
        "{n} more looks are at other sets of this file's test images, such as all of them with the "
        "14 findings; they are lines of the same file, and not counted above.",
        "{n} evaluasi lagi memakai kumpulan lain dari citra uji berkas ini, misalnya semuanya "
        "dengan 14 temuan; semuanya tercatat di berkas yang sama, dan tidak dihitung di atas.",
    ),
    "below_looks": (
        "A look is an evaluation of predictions of the test images against their labels; each is a "
        "line of {table}. The same X-rays in another size are the same images. The last "
        "column of the table of all runs adds up all recipes and seeds of a network, the averages "
        "that it is a part of included. Looks from before they were written down are reconstructed "
        "from stored figures; there may have been more. Where a recipe has several versions under "
        "one name, it was changed after a test figure of it had been stored, so that its later "
        "test figures are no longer those of images that nobody had looked at.",
        "Evaluasi di sini berarti membandingkan prediksi citra uji dengan labelnya; setiap "
        "evaluasi adalah satu baris di {table}. Foto rontgen yang sama dalam ukuran lain "
        "adalah citra yang sama. Kolom terakhir tabel semua percobaan menjumlahkan semua resep dan "
        "seed sebuah jaringan, termasuk rerata yang memuatnya. Evaluasi dari masa sebelum "
        "pencatatan direkonstruksi dari angka yang tersimpan; jumlah sebenarnya mungkin lebih. "
        "Jika satu nama resep memiliki beberapa versi, resep itu diubah setelah angka ujinya "
        "tersimpan, sehingga angka uji sesudahnya tidak lagi berasal dari citra yang belum pernah "
        "dilihat.",
    ),
    "patients_of": (
        "The {n} {split} images are of {patients} patients, who tell as much as {effective} with "
        "equally many images each (one has {most}).",
        "{n} citra {split} berasal dari {patients} pasien, yang setara dengan {effective} "
        "pasien dengan citra sama banyak (seorang memiliki {most}).",
    ),
    "warnings": (
        "Runs marked (!) have warnings. A network whose outputs hardly differ, or that is another "
        "network in evaluation than in training, has not shown that there is nothing to learn: its "
        "figures are to be taken for a fault until the cause is known. An AUC of outputs that "
        "differ by less than float noise is undefined (-).",
        "Percobaan bertanda (!) memiliki peringatan. Jaringan yang keluarannya hampir sama untuk "
        "semua citra, atau yang berperilaku lain saat evaluasi daripada saat pelatihan, tidak "
        "membuktikan bahwa tidak ada yang dapat dipelajari: angkanya harus dianggap akibat "
        "kesalahan sampai sebabnya diketahui. AUC dari keluaran yang selisihnya lebih kecil "
        "daripada galat pembulatan tidak terdefinisi (-).",
    ),
    "warning": ("**Warning:** {text}.", "**Peringatan:** {text}."),
    "run_number": ("run {number} ({run})", "percobaan {number} ({run})"),
    "test_accuracy": ("test accuracy", "akurasi uji"),
    "test_auc": ("test AUC", "AUC uji"),
    "best_clear": (
        "Highest {figure}: {runs}, with the interval of its difference to every other run above "
        "zero.",
        "Nilai {figure} tertinggi: {runs}; selang selisihnya terhadap setiap percobaan lain "
        "berada di atas nol.",
    ),
    "best_unclear": (
        "Highest {figure}: {runs}, not bold because the interval of the difference of run {number} "
        "to these runs reaches zero: {others}.",
        "Nilai {figure} tertinggi: {runs}, tidak dicetak tebal karena selang selisih percobaan "
        "{number} terhadap percobaan berikut mencakup nol: {others}.",
    ),
    "no_baselines": (
        "No baselines yet: `python -m studies.baselines` with the same `--data` adds them.",
        "Belum ada pembanding dasar: `python -m studies.baselines` dengan `--data` yang sama "
        "menambahkannya.",
    ),
    "cross_validation_title": (
        "Cross-validation with patients kept together",
        "Validasi silang dengan citra seorang pasien tetap bersama",
    ),
    "head_divided": ("what is divided", "data yang dibagi"),
    "head_images": ("images", "citra"),
    "head_oof_auc": ("AUC within the folds", "AUC di dalam fold"),
    "head_gain": ("AUC minus that of {reference}", "AUC dikurangi AUC {reference}"),
    "head_gain_report": (
        "AUC minus that of the same<br>network with recipe report",
        "AUC dikurangi AUC jaringan<br>yang sama dengan resep report",
    ),
    "below_cross_validation": (
        "Each image is predicted by the one model that was fitted without its fold. The AUC is the "
        "mean over the folds of the AUC within a fold, as on the pages of the studies; the page of "
        "a run ranks all images together, whichever model predicted them, and so has another one. "
        "A study that has trained the same recipe with the same seed again, on another processor "
        "or version of PyTorch, has another figure. "
        "95 % intervals: a bootstrap of patients (of images, where patients are unknown), the "
        "differences paired; none where the folds cannot be told. They are of one division into "
        "folds and one training each and leave out how much training again would change a figure, "
        "so they decide nothing about recipes. The recipes were chosen on these folds (choice "
        "folds). Where train and val "
        "are divided together, a network chooses its epoch on the fold that it is evaluated on, "
        "which favours it slightly, unless its recipe takes the last epoch; a baseline chooses "
        "nothing there.",
        "Setiap citra diprediksi oleh satu-satunya model yang dilatih tanpa fold citra itu. AUC "
        "adalah rerata antar-fold dari AUC di dalam fold, seperti di halaman studi; halaman sebuah "
        "run mengurutkan semua citra bersama, dari model mana pun prediksinya, sehingga angkanya "
        "berbeda. Studi yang melatih lagi resep dan seed yang sama, dengan prosesor atau versi "
        "PyTorch lain, mendapat angka lain. Selang 95 %: bootstrap atas pasien (atas citra bila "
        "pasien tidak diketahui), selisihnya berpasangan; tanpa selang bila fold tidak dapat "
        "diketahui. Angkanya berasal "
        "dari satu pembagian fold dan satu kali pelatihan; seberapa jauh pelatihan ulang akan "
        "mengubahnya tidak ikut diperhitungkan, sehingga angka ini tidak memutuskan apa pun "
        "tentang resep. "
        "Resepnya dipilih dengan fold ini (fold pemilihan). Bila data latih dan validasi "
        "dibagi bersama, sebuah jaringan memilih epoch pada fold yang juga dipakai "
        "mengevaluasinya, sehingga sedikit diuntungkan, kecuali bila resepnya mengambil epoch "
        "terakhir; pembanding dasar tidak memilih apa pun di sana.",
    ),
    "comparison_caption": (
        "Test accuracy and AUC of every run with 95 % intervals, and its parameters; the numbers "
        "are those of the table.",
        "Akurasi uji dan AUC setiap percobaan dengan selang 95 %, dan banyaknya parameter; "
        "nomornya sama dengan nomor di tabel.",
    ),
    "pairs_title": ("Pairs of runs on the test images", "Pasangan percobaan pada citra uji"),
    "some_pairs": (
        "Each run against {references}: the highest validation AUC of all and of the baselines. "
        "Any other pair: `python visualize.py pair RUN RUN`.",
        "Setiap percobaan dibandingkan dengan {references}: AUC validasi tertinggi dari semuanya "
        "dan dari pembanding dasar. Pasangan lain: `python visualize.py pair RUN RUN`.",
    ),
    "pairs_summary": ("The {n} pairs", "Semua {n} pasangan"),
    "head_first": ("first", "pertama"),
    "head_second": ("second", "kedua"),
    "head_accuracy_gain": ("accuracy, first minus second", "akurasi, pertama dikurangi kedua"),
    "head_auc_gain": ("AUC, first minus second", "AUC, pertama dikurangi kedua"),
    "head_only_first": ("only first right", "hanya pertama benar"),
    "head_only_second": ("only second right", "hanya kedua benar"),
    "head_mcnemar": ("McNemar's p", "p McNemar"),
    "below_pairs": (
        "Differences of accuracy are in percentage points. Their 95 % intervals are those of a "
        "paired bootstrap that resamples {unit}, {resamples} times; with another seed their ends "
        "would move by {accuracy_error} points and {auc_error} at most (one standard error); ~ "
        "marks those with an end within two such errors of zero, which decide nothing. They "
        "compare these trained models, not their recipes: training again would move the figures "
        "further. McNemar's exact test takes every image for independent; several images of one "
        "patient are not, so its p is too small; rely on the interval.",
        "Selisih akurasi dinyatakan dalam poin persen. Selang 95 %-nya berasal dari bootstrap "
        "berpasangan dengan pengambilan ulang per {unit}, {resamples} kali; dengan seed lain "
        "ujungnya bergeser paling banyak {accuracy_error} poin dan {auc_error} (satu galat baku); "
        "tanda ~ berarti salah satu ujungnya kurang dari dua galat itu dari nol, sehingga selang "
        "itu tidak memutuskan apa pun. "
        "Yang dibandingkan adalah model yang sudah dilatih ini, bukan resepnya: pelatihan ulang "
        "akan menggeser angkanya lebih jauh. Uji eksak McNemar menganggap setiap "
        "citra saling bebas; beberapa citra dari satu pasien tidaklah demikian, sehingga nilai p "
        "itu terlalu kecil dan selanglah yang sebaiknya dipegang.",
    ),
    "mistakes": (
        "The errors farthest from the threshold and the images nearest to it, with indices and "
        "pictures (test images: to be looked at only after the recipe is final)",
        "Kesalahan yang paling jauh dari ambang dan citra yang paling dekat dengannya, dengan "
        "indeks dan gambar (citra uji: baru dilihat setelah resepnya final)",
    ),
    "judged_network": ("single networks", "jaringan tunggal"),
    "judged_estimated": (
        "single networks, statistics estimated",
        "jaringan tunggal, statistik ditaksir ulang",
    ),
    "judged_average": ("average of networks", "rerata jaringan"),
    "judged_yardstick": ("classical classifier", "pengklasifikasi klasik"),
    "verdict_supported": ("supported", "didukung"),
    "verdict_outside": ("outside", "di luar klaim"),
    "verdict_undecided": ("undecided", "belum dapat disimpulkan"),
    "verdict_refuted": ("refuted", "ditolak"),
}

MESSAGES |= FAMILY_MESSAGES
