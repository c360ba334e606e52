"""Names that say what a run does otherwise, and recipes that say what is wrong with them."""

import dataclasses
import json

import pytest
from conftest import ROOT, run_script
from tiny_train import RECIPE

import networks
import train
from chestlab.files.errors import InputError
from chestlab.runs import published
from chestlab.runs.flags import parse
from chestlab.runs.naming import check_name, run_name
from chestlab.training.recipe import Recipe, hyperparameter

REDUCTION = hyperparameter(16, "", low=1, high=64)


def name_of(*flags, data="phantom", size=28, recipes=None):
    recipes = recipes or {"report": RECIPE}
    options = parse(recipes, list(flags), model_options={"reduction": REDUCTION})
    return run_name(options.recipe.name, data, size, options.name_changes)


@pytest.mark.parametrize(
    ("flags", "ending"),
    [
        ((), ""),
        (("--epochs", "3"), "_epochs3"),
        (("--epochs", "4"), ""),  # the recipe's own number
        (("--lr", "1e-5"), "_lr1e-05"),
        (("--graph", "off", "--seed", "1"), "_seed1_graphoff"),
        (("--graph", "auto"), ""),
        (("--batch-size", "8", "--tta", "flip"), "_batch-size8_ttaflip"),
        (("--reduction", "8", "--epochs", "3"), "_reduction8_epochs3"),
        (("--weights", "my start.pth"), "_weights-my-start-"),
        (("--device", "cpu", "--no-test", "--overwrite"), ""),  # the same run elsewhere
    ],
)
def test_what_a_flag_changes_is_in_the_default_name(flags, ending):
    name = name_of(*flags)
    assert name.startswith("tiny" + ending) if "weights" in ending else name == "tiny" + ending
    check_name(name)


def test_more_than_three_changes_are_a_short_hash_that_tells_them_apart():
    flags = ["--epochs", "3", "--lr", "0.1", "--seed", "7", "--flip", "0"]
    first, again = name_of(*flags), name_of(*flags[2:], *flags[:2])
    other = name_of(*flags[:-1], "0.1")
    assert first == again != other
    assert len(first) == len("tiny_") + 6
    assert name_of(*flags, data="a.npz", size=64).startswith("tiny_a_64_")


def test_the_default_recipe_has_the_plain_name_and_the_others_add_theirs():
    for name, known in networks.NETWORKS.items():
        recipes = networks.network(name, "cpu").recipes
        default, *others = recipes
        if known.build is networks.torchvision_chest:  # named by parse, after the architecture
            continue
        assert recipes[default].name == name
        assert [recipes[key].name for key in others] == [f"{name}_{key}" for key in others]


def test_the_published_recipes_are_those_of_the_scripts(monkeypatch, tmp_path):
    """After a change that is meant to stay: python networks.py."""
    monkeypatch.setattr(published, "FILE", tmp_path / "recipes.json")
    networks.record()
    stored = json.loads((ROOT / "chestlab/runs/published_recipes.json").read_text())
    assert json.loads((tmp_path / "recipes.json").read_text()) == stored


def test_a_number_edited_in_a_script_is_a_change_like_one_given_by_flag():
    edited = dataclasses.replace(train.BEST, epochs=30)
    by_edit = parse({"best": edited}, ["--lr", "0.01"])
    by_flag = parse({"best": train.BEST}, ["--epochs", "30", "--lr", "0.01"])
    assert by_edit.recipe_changes == by_flag.recipe_changes == {"epochs": 30, "lr": 0.01}
    assert parse(train.RECIPES, []).recipe_changes == {}
    assert parse(train.RECIPES, ["--seed", "3"]).recipe_changes == {}  # has a place of its own
    assert parse({"mine": RECIPE}, []).recipe_changes == {}  # never published


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epohcs": 3}, "no hyperparameter 'epohcs': did you mean epochs?"),
        ({"learning": 3}, "no hyperparameter 'learning'"),
        ({"epochs": 40.5}, "epochs = 40.5 is not an integer from 1 up to 100000"),
        ({"epochs": 0}, "epochs = 0 is not an integer from 1"),
        ({"epochs": True}, "epochs = True is not an integer"),
        ({"epochs": "40"}, "epochs = '40' is not an integer"),
        ({"lr": "fast"}, "lr = 'fast' is not a number above 0 up to 10"),
        ({"lr": float("nan")}, "lr = nan is not a number"),
        ({"flip": 2}, "flip = 2 is not a number from 0 up to 1"),
        ({"schedule": "one"}, "schedule = 'one' is not constant or onecycle"),
        ({"tta": True}, "tta = True is not none or flip or warps"),
        ({"graph": "on"}, "graph = 'on' is not True or False"),
    ],
)
def test_a_wrong_value_in_a_recipe_is_named_with_what_is_allowed(values, words):
    with pytest.raises(InputError) as error:
        Recipe(name="mine", **values)
    assert words in str(error.value)


def test_whole_numbers_are_numbers():
    assert Recipe(name="mine", lr=1, flip=0, div_factor=10).lr == 1


def test_a_wrong_line_in_a_script_is_one_line_with_its_place(tmp_path):
    script = tmp_path / "mine.py"
    text = "from chestlab import Recipe\n\nBEST = Recipe(\n    name='x',\n    epohcs=3,\n)\n"
    script.write_text(text)
    done = run_script(script, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: mine.py, line ")
    assert "did you mean epochs?" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_other_errors_keep_their_traceback(tmp_path):
    (tmp_path / "mine.py").write_text("import chestlab.files.errors\nraise ValueError('mine')\n")
    done = run_script(tmp_path / "mine.py", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ValueError: mine" in done.stderr


def test_a_recipe_without_a_name_says_so():
    with pytest.raises(InputError, match="needs a name"):
        Recipe(epochs=3)
