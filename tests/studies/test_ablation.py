"""Effect of a switch: turned alone, with paired intervals, recomputable; learning curves."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from comparisons import BASE, tiny_networks, trained  # noqa: F401 (fixtures)
from conftest import rest_slow, run_in_process, without_times
from torch import nn

from chestlab.data.phantom import OFFICIAL_COUNTS
from chestlab.evaluation import out_of_fold
from chestlab.evaluation.metrics import paired_difference, sigmoid
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.files.errors import InputError, TrainingError
from chestlab.files.progress import Interrupted
from chestlab.reporting import overview
from chestlab.runs import crossval
from chestlab.training.recipe import Recipe
from studies import ablation, learning_curve, switches
from studies.switches import SWITCHES, Switch, is_on, toggled, usable

NAMES = {switch.name: switch for switch in SWITCHES}
SHORT = ["--net", "resnet34", "--folds", "3", "--repeats", "3", "--device", "cpu", "--name", "a"]
SWITCH = ["--switch", "flip", "rotate", "per-image", "smoothing"]
pytestmark = pytest.mark.usefixtures("tiny_networks")


@pytest.fixture
def command(phantom_npz, tmp_path, monkeypatch):
    """Run the command in a folder of its own; where its results are."""
    monkeypatch.chdir(tmp_path)

    def run(*flags):
        ablation.main([*SHORT, "--data", str(phantom_npz), *flags])
        return tmp_path / "results" / "studies" / "a"

    return run


def rows_of(folder):
    with (folder / "table.csv").open(newline="") as file:
        return {row["configuration"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.name)
def test_a_switch_is_off_by_default_turns_on_and_off_again(switch):
    default = Recipe(name="")
    assert switch.text and not is_on(default, switch)
    on = toggled(default, switch)
    assert is_on(on, switch) and on != default
    assert toggled(on, switch) == default


def test_another_amount_is_having_it_but_another_choice_is_not():
    assert is_on(Recipe(name="", rotate=15), NAMES["rotate"])
    assert toggled(Recipe(name="", rotate=15), NAMES["rotate"]).rotate == 0
    assert not is_on(Recipe(name="", schedule="plateau"), NAMES["cosine"])
    assert toggled(Recipe(name="", schedule="plateau"), NAMES["cosine"]).schedule == "cosine"
    assert not is_on(Recipe(name="", image_size=64), NAMES["size-128"])


def test_weights_of_the_loss_are_the_official_classes_ratio():
    smaller, larger = OFFICIAL_COUNTS["train"]
    assert NAMES["pos-weight"].changes["pos_weight"] == pytest.approx(smaller / larger, abs=1e-3)


def test_networks_are_only_offered_what_they_can_take():
    from model_improved import ResidualChestNet

    assert "drop-path" in usable(ResidualChestNet())
    assert "drop-path" not in usable(nn.Linear(1, 1))
    assert "freeze" not in usable(ResidualChestNet())
    assert "freeze" in usable()


@pytest.mark.usefixtures("trained")
def test_winners_come_first_losers_last_and_what_the_base_has_is_taken_away(command):
    rows = rows_of(command(*SWITCH))
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "base": "",
        "+ per-image": "supported",
        "- flip": "supported",
        "+ smoothing": "undecided",
        "+ rotate": "refuted",
        "hog_rbf_svm": "",
    }
    assert set(list(rows)[1:3]) == {"- flip", "+ per-image"}
    assert list(rows)[-2:] == ["+ rotate", "hog_rbf_svm"]
    assert float(rows["- flip"]["auc_gain"]) > 0
    assert float(rows["+ smoothing"]["auc_gain"]) == 0
    compared = [row for row in rows.values() if row["verdict"]]
    assert all(float(row["p_holm"]) >= float(row["p"]) for row in compared)
    assert len({row["auc_gain_detectable"] for row in compared}) > 1
    assert all(float(row["auc_gain_monte_carlo"]) < 0.01 for row in compared)
    assert float(rows["+ rotate"]["seconds"]) == 11
    assert float(rows["+ rotate"]["images_ratio"]) == 1


@pytest.mark.usefixtures("trained")
def test_all_winners_are_tried_together_and_losers_of_the_base_are_switched_off(
    command, monkeypatch
):
    extra = Switch("decay", "", {"weight_decay": 1e-3})
    monkeypatch.setattr(switches, "SWITCHES", (*SWITCHES, extra))
    folder = command("--rotate", "5", *SWITCH)
    about = json.loads((folder / "ablation.json").read_text())
    assert about["configurations"]["together"]["changes"] == {
        "rotate": 0.0,
        "normalize": "per-image",
    }
    rows = rows_of(folder)
    assert rows["- rotate"]["verdict"] == "refuted"
    assert rows["together"]["verdict"] == "supported"
    assert float(rows["together"]["auc_gain"]) > float(rows["+ per-image"]["auc_gain"])


@pytest.mark.usefixtures("trained")
def test_what_goes_together_can_be_said(command):
    folder = command("--switch", "flip", "--together", "smoothing", "per-image")
    about = json.loads((folder / "ablation.json").read_text())["configurations"]
    assert set(about["together"]["text"].split(", ")) == {"smoothing", "per-image"}
    assert about["together"]["changes"] == {"label_smoothing": 0.1, "normalize": "per-image"}
    assert "- flip" in about


def test_another_recipe_is_compared_as_a_whole(command, request):
    done = request.getfixturevalue("trained")
    other = dataclasses.replace(BASE, name="tiny_best", normalize="per-image", lr=1e-3, seed=99)
    request.getfixturevalue("tiny_networks").recipes["best"] = other
    folder = command("--base", "report", "--recipes", "best", "--epochs", "3")
    rows = rows_of(folder)
    assert list(rows) == ["base", "recipe best", "hog_rbf_svm"]
    assert rows["recipe best"]["verdict"] == "supported"
    # with the seeds of the base, or nothing would be paired
    assert {(one.recipe.seed, one.recipe.epochs) for one in done} == {(7, 3), (8, 3), (9, 3)}
    about = json.loads((folder / "ablation.json").read_text())["configurations"]
    assert about["recipe best"]["changes"] == {"normalize": "per-image", "lr": 1e-3}
    assert "| `recipe best` | all of recipe best |" in (folder / "README.md").read_text()
    both = rows_of(command("--base", "report", "--recipes", "best", *SWITCH))
    assert list(both)[:2] == ["base", "recipe best"] and list(both)[4] == "+ smoothing"


@pytest.mark.usefixtures("trained")
def test_gains_are_differences_of_the_tables_logits(command):
    folder = command(*SWITCH)
    oof = OutOfFold.read(folder / "oof.csv")
    row = rows_of(folder)["+ per-image"]
    pairs = [
        paired_difference(oof.labels, sigmoid(one), sigmoid(other), (0.5, 0.5))["accuracy"]
        for one, other in zip(oof.logits["+ per-image"], oof.logits["base"], strict=True)
    ]
    assert float(row["accuracy_gain"]) == pytest.approx(np.mean(pairs))
    assert float(row["accuracy_gain_low"]) <= np.mean(pairs) <= float(row["accuracy_gain_high"])


@pytest.mark.usefixtures("trained")
def test_page_and_table_are_recomputed_from_logits_and_json(command, tmp_path):
    folder = command(*SWITCH)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("oof.csv", "ablation.json"):
        shutil.copyfile(folder / name, other / name)
    with pytest.raises(SystemExit) as end:
        ablation.main(["--redraw", str(other)])
    assert end.value.code == 0
    for name in ("table.csv", "README.md", "README.id.md", "gains.png"):
        assert (other / name).read_bytes() == (folder / name).read_bytes()
    text = (folder / "README.md").read_text()
    assert all(word in text for word in ("supported", "undecided", "refuted", "PHANTOM"))
    indonesian = (folder / "README.id.md").read_text()
    for word in ("didukung", "belum dapat disimpulkan", "ditolak", "PHANTOM", "mencerminkan"):
        assert word in indonesian


@pytest.mark.usefixtures("trained")
def test_the_page_begins_with_what_helps_and_hurts_after_holms_correction(command):
    folder = command(*SWITCH)
    decided = {name: row["verdict_holm"] for name, row in rows_of(folder).items()}
    for page, hurting, undecided in (
        ("README.md", "What hurts", "Undecided"),
        ("README.id.md", "Yang terbukti merugikan", "Belum dapat disimpulkan"),
    ):
        answer = (folder / page).read_text().split("\n\n")[2]
        helps, _, rest = answer.partition(hurting)
        hurts, _, rest = rest.partition(undecided)
        for part, verdict in ((helps, "supported"), (hurts, "refuted")):
            named = {name for name in decided if f"`{name[2:]}`" in part}
            assert named == {name for name, of in decided.items() if of == verdict}
        assert rest.startswith(f": {list(decided.values()).count('undecided')}.")


@pytest.mark.usefixtures("trained")
def test_results_page_shows_the_table_in_both_languages(command, run_of_one_epoch):
    folder = command(*SWITCH)
    shutil.copytree(run_of_one_epoch[0] / "results" / "one", folder.parent.parent / "one")
    results_dir = folder.parent.parent

    def studies_page(language):
        return overview.write_report(results_dir, language)[2].read_text(encoding="utf-8")

    for language, word in (("en", "supported"), ("id", "didukung")):
        text = studies_page(language)
        assert "`per-image`" in text and word in text
        assert f"(a/{overview.PAGES[language]})" in text and "(a/oof.csv)" in text
        assert " `per-image` +" in text.split("\n## ")[0]  # the answer of its page
    (folder / "table.csv").write_text("configuration\n")
    assert "| `per-image`" not in studies_page("en")
    command("--repeats", "1", *SWITCH)  # which decides nothing: its own page is enough
    text = studies_page("en")
    assert "(a/README.md): A single repeat decides nothing." in text
    assert "| `per-image`" not in text


def test_an_interrupted_ablation_goes_on_and_equals_the_uninterrupted_one(
    command,
    request,
    tmp_path,
    capsys,
    monkeypatch,
):
    trained_networks = request.getfixturevalue("trained")
    short = "--switch", "flip", "per-image"
    straight = command(*short)
    logits, rows = (straight / "oof.csv").read_bytes(), without_times(rows_of(straight))
    about = json.loads((straight / "ablation.json").read_text())
    count = len(trained_networks)
    shutil.rmtree(tmp_path / "results")
    shutil.rmtree(tmp_path / "trained_models")
    whole, calls = crossval.train_fold, []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) == 14:
            raise Interrupted(2)
        return whole(*arguments)

    monkeypatch.setattr(crossval, "train_fold", stopping)
    with pytest.raises(SystemExit) as end:
        command(*short)
    assert end.value.code == 130
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line == ("interrupted in - flip, repeat 2 of 3, fold 2 of 3: the same command goes on")
    assert not list((tmp_path / "results" / "studies" / "a").iterdir())
    again = command(*short)
    assert len(calls) == count + 1
    assert (again / "oof.csv").read_bytes() == logits
    for name, row in without_times(rows_of(again)).items():
        assert row == rows[name]
    assert without_times(json.loads((again / "ablation.json").read_text())) == without_times(about)


def test_a_switch_that_diverges_is_left_out_and_named(command, request, monkeypatch):
    request.getfixturevalue("trained")
    whole = crossval.train_fold

    def diverging(configuration, *arguments):
        if configuration.recipe.rotate:
            raise TrainingError("not finite")
        return whole(configuration, *arguments)

    monkeypatch.setattr(crossval, "train_fold", diverging)
    folder = command(*SWITCH)
    assert "+ rotate" not in rows_of(folder)
    assert "`+ rotate` has no figures" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--switch", "nonsense"], "--switch nonsense: allowed are flip"),
        (["--switch", "freeze"], "--switch freeze"),
        (["--folds", "1"], "'1' is not an integer"),
        (["--folds", "60"], "--folds 60: the rarer class"),
        (["--base", "other"], "'other': the recipes of train_tiny.py are report"),
        (["--recipes", "other"], "'other': the recipes of train_tiny.py are report"),
        (["--stage1-epochs", "2"], "no backbone to freeze"),
        (["--amp", "fp16"], "not on a CPU"),
        (["--switch", "related"], "--switch related: allowed are"),
        (["--switch", "size-28"], "--switch size-28"),
        (["--name", "a/b"], "--name"),
        (["--results-dir", "/dev/null/x"], "not a folder"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(command, flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        command(*flags)
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1] and lines[-1].startswith("error: ")
    assert not (tmp_path / "results").exists() and not (tmp_path / "trained_models").exists()


def test_a_network_is_trained_and_its_page_written(command):
    rows = rows_of(command("--switch", "per-image", "--repeats", "2"))
    assert float(rows["+ per-image"]["auc_gain"]) == pytest.approx(
        float(rows["+ per-image"]["auc"]) - float(rows["base"]["auc"])
    )


@pytest.mark.usefixtures("trained")
def test_with_one_repeat_no_verdict_of_the_page_is_decided(command):
    rows = rows_of(command("--repeats", "1", *SWITCH))
    for name, row in rows.items():
        kinds = {"hog_rbf_svm": set(), "base": {"over_hog_"}}.get(name, {"", "over_hog_"})
        for kind in kinds:
            assert row[f"{kind}verdict"] == row[f"{kind}verdict_holm"] == "undecided"
    assert float(rows["+ per-image"]["auc_gain_low"]) > 0  # of the patients alone


def test_a_damaged_comparison_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"ablation\.json"):
        ablation.write_page(tmp_path)


@pytest.mark.parametrize(("exponent", "factor"), [(0.5, 2.0), (0.1, 0.6), (0.0, 0.3)])
def test_a_power_law_is_found_again(exponent, factor):
    images = np.array([100, 200, 300, 400])
    scores = 1 - factor * images**-exponent
    found = learning_curve.fit_power_law(images, np.stack([scores, scores]))
    assert np.allclose(found[0], exponent) and np.allclose(found[1], factor)


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_learning_curve_and_its_extrapolation(phantom_npz, tmp_path, monkeypatch):
    monkeypatch.setattr(out_of_fold, "BOOTSTRAP_RESAMPLES", 200)
    monkeypatch.chdir(tmp_path)
    flags = ["--nets", "resnet34", "--folds", "3", "--name", "curve"]
    flags += ["--data", str(phantom_npz), "--device", "cpu"]
    learning_curve.main([*flags, "--repeats", "2"])
    for name in ("README.md", "table.csv"):
        assert (
            "extrapolated*" not in (tmp_path / "results" / "studies" / "curve" / name).read_text()
        )
    assert "There is no extrapolation" in (tmp_path / "results/studies/curve/README.md").read_text()
    learning_curve.main([*flags, "--repeats", "3"])
    folder = tmp_path / "results" / "studies" / "curve"
    with (folder / "table.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == "resnet34"]
    images = [float(row["images"]) for row in rows]
    assert images == sorted(images) and len(rows) == 5
    assert images[-1] == sum(OFFICIAL_COUNTS["train"])
    assert [row["extrapolated"] for row in rows] == ["False"] * 4 + ["True"]
    assert np.allclose(np.array(images[:3]) / images[3], [0.25, 0.5, 0.75], atol=0.08)
    aucs = {float(row["auc"]) for row in rows[:4]}
    assert len(aucs) == 1  # the network of this test is no better for more images
    assert float(rows[4]["auc"]) == pytest.approx(aucs.pop(), abs=1e-9)
    text = (folder / "README.md").read_text()
    assert "*extrapolated*" in text
    assert "*ekstrapolasi*" in (folder / "README.id.md").read_text()
    before = text, (folder / "table.csv").read_bytes()
    with pytest.raises(SystemExit) as end:
        learning_curve.main(["--redraw", str(folder)])
    assert end.value.code == 0
    assert ((folder / "README.md").read_text(), (folder / "table.csv").read_bytes()) == before


@pytest.mark.parametrize("study", rest_slow(("ablation", "learning_curve", "tune"), "tune"))
def test_help_names_the_command_and_the_flags(study, tmp_path):
    ended = run_in_process(f"-m studies.{study}", "--help", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"usage: python -m studies.{study} ")
    assert "--repeats" in ended.stdout and "--label-smoothing" in ended.stdout


def test_base_recipe_of_this_test_has_what_it_takes_away():
    assert is_on(BASE, NAMES["flip"]) and not is_on(
        dataclasses.replace(BASE, flip=0), NAMES["flip"]
    )
