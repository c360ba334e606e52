"""Pages of studies in two languages: the same figures, written again from their own files."""

import json
import re
import shutil

import pytest
from conftest import ROOT

from chestlab.files.errors import InputError
from chestlab.reporting import family_page
from chestlab.reporting.front_messages import SWITCHES_IN_INDONESIAN
from chestlab.reporting.lab_warnings import warning_in
from chestlab.reporting.overview import PAGES
from chestlab.reporting.page import Wording
from studies import seeds, strides, tune
from studies.switches import SWITCHES

STUDIES = ROOT / "results" / "studies"

WRITERS = {  # of the pages that are made of stored tables, without a bootstrap
    "resnet34_family": family_page.write_pages,
    "seeds": seeds.write_page,
    "strides": strides.write_page,
    "tune": tune.write_page,
}

OTHERS = ("ablation", "learning_curve")  # which tests/studies/test_ablation.py writes again

ANSWERS = {"en": "**In short.** ", "id": "**Ringkasan.** "}


def folders(*kinds):
    return sorted(path for kind in kinds for path in STUDIES.glob(f"{kind}_*"))


def by_name(path):
    return path.name


def pages_of(folder):
    return {code: (folder / page).read_text(encoding="utf-8") for code, page in PAGES.items()}


def numbers_of_tables(text, decimal):
    rows = "\n".join(line for line in text.splitlines() if line.startswith("| "))
    thousands = {".": ",", ",": "."}[decimal]
    found = re.findall(rf"\d[\d{thousands}]*(?:{re.escape(decimal)}\d+)?", rows)
    return [number.replace(thousands, "").replace(decimal, ".") for number in found]


@pytest.mark.parametrize("folder", folders(*WRITERS, *OTHERS), ids=by_name)
def test_both_languages_have_the_same_figures_an_answer_on_top_and_a_link(folder):
    pages = pages_of(folder)
    for code, other in (("en", "id"), ("id", "en")):
        top = "\n".join(pages[code].splitlines()[:5])
        assert f"({PAGES[other]})" in top and ANSWERS[code] in top
    english, indonesian = (
        numbers_of_tables(pages[code], mark) for code, mark in (("en", "."), ("id", ","))
    )
    assert len(english) > 10
    assert sorted(english) == sorted(indonesian)  # a claim's words may have another order


@pytest.mark.parametrize("folder", folders(*WRITERS), ids=by_name)
def test_the_committed_page_is_written_again_from_committed_files(folder, tmp_path):
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    for page in PAGES.values():
        (copy / page).unlink()
    kind = next(kind for kind in WRITERS if folder.name.startswith(kind))
    WRITERS[kind](copy)
    assert pages_of(copy) == pages_of(folder)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_without_the_studys_file_is_named(kind, tmp_path):
    with pytest.raises(InputError, match=tmp_path.name):
        WRITERS[kind](tmp_path)
    assert not list(tmp_path.iterdir())


def test_stored_gradients_are_drawn_again(tmp_path):
    (folder,) = folders("resnet34_family_findings")
    copy = tmp_path / "family"
    shutil.copytree(folder, copy)
    before = (copy / "gradients.png").read_bytes()
    about = json.loads((copy / family_page.FILE).read_text())
    layers = [{"first": 4.0, "last": 1.0}] * len(about["seeds"])
    networks = {"Plain-34": layers, "ResNet-34": layers}
    about |= {"gradients": {"start": networks, "best": networks}, "gradient_images": 64}
    (copy / family_page.FILE).write_text(json.dumps(about))
    family_page.write_pages(copy)
    assert (copy / "gradients.png").read_bytes() != before


def test_a_decided_hypothesis_is_in_the_answer_and_an_undecided_one_is_not():
    (folder,) = folders("resnet34_family_findings")
    answers = {
        code: re.search(rf"^{re.escape(ANSWERS[code])}(.+?)\n\n", text, re.M | re.S)[1]
        for code, text in pages_of(folder).items()
    }
    assert "Modified is better than ResNet-34 (test AUC): supported" in answers["en"]
    assert "Modified lebih baik daripada ResNet-34 (AUC uji): didukung" in answers["id"]
    assert "SE" not in answers["en"] and "Mish" not in answers["id"]


def test_what_files_hold_in_english_is_translated_by_the_message_that_says_it():
    english, indonesian = Wording("en"), Wording("id")
    note = "run for 3 epochs only"
    assert english.translated(note, "note_seed", "note_short") == note
    assert indonesian.translated(note, "note_seed", "note_short") == "hanya dijalankan 3 epoch"
    assert indonesian.translated("something else", "note_short") == "something else"
    assert indonesian.baseline("Majority class") == "Kelas mayoritas"
    assert indonesian.baseline("EfficientChestNet") == "EfficientChestNet"


def test_alarms_of_configurations_are_translated():
    alarm = (
        "`+ ema`: outputs are nearly constant: the middle 90 % of the logits span 0.078 on fold 2 "
        "of repeat 3; such figures are no evidence of what can be learnt"
    )
    assert warning_in("en", alarm) == alarm
    text = warning_in("id", alarm)
    assert text.startswith("`+ ema`: keluarannya hampir sama")
    assert "merentang 0,078 pada fold 2 ulangan 3;" in text
    assert warning_in("id", "`x`: unheard of") == "`x`: unheard of"


def test_every_switch_is_told_in_indonesian():
    assert {switch.name for switch in SWITCHES} <= SWITCHES_IN_INDONESIAN.keys()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nosuch.py", "--name", "x"], "'nosuch.py' is no script here; there are resnet_"),
        (["train.py", "--name", "x", "--seeds", "3"], "--seeds: two or more are compared"),
        (["train.py", "--name", "x", "--seeds", "3", "3"], "and none twice"),
        (["train.py", "--name", "../x"], "../x"),
        (["train.py"], "--name"),
    ],
)
def test_seeds_refuses_what_it_cannot_use(flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        seeds.main(flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1


def test_seeds_ends_as_the_training_that_failed(capfd, tmp_path):
    with pytest.raises(SystemExit) as stop:
        seeds.main(["train.py", "--name", "x", "--results-dir", str(tmp_path), "--nosuch"])
    error = capfd.readouterr().err
    assert stop.value.code == 2 and "--nosuch" in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())
