"""Cross-validation: patients never on both sides, nothing chosen on what is held out, resumable."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny_train import TinyNet

from chestlab.data import folds, sources
from chestlab.data.folds import FOLDS_SEED, CrossValidationSplits, make_folds, share_rows
from chestlab.data.splits import Split, nih_patients
from chestlab.evaluation import baselines, verdicts
from chestlab.evaluation.out_of_fold import OutOfFold
from chestlab.files.errors import InputError, TrainingError
from chestlab.files.progress import Interrupted, StopSignals
from chestlab.runs import crossval
from chestlab.runs.crossval import Configuration, Store, cross_validate, cross_validate_baseline
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer
from chestlab.training.weights import PretrainedWeights

CPU = torch.device("cpu")
RECIPE = Recipe(name="tiny", epochs=2, batch_size=16, lr=1e-2, seed=7)
LAST = dataclasses.replace(RECIPE, monitor="last")


@pytest.fixture(scope="module")
def data(phantom_npz):
    return with_patients(sources.load(str(phantom_npz), related=True))


def with_patients(data, images_each=2):
    """Names as the NIH's: every patient owns two images, of train and val and those related."""

    def named(split, first):
        numbers = first + np.arange(len(split)) // images_each
        names = np.array([f"{n:08d}_{k:03d}.png" for k, n in enumerate(numbers)])
        return dataclasses.replace(split, names=names, patients=nih_patients(names))

    splits = {
        "train": named(data.train, 1),
        "val": named(data.val, 10_000),
        "test": named(data.test, 20_000),
    }
    related = np.concatenate([splits["train"].names, ["00009999_000.png", "00009998_000.png"]])
    return dataclasses.replace(
        data,
        **splits,
        related=dataclasses.replace(
            data.train.take(np.arange(-2, len(data.train))),
            names=related,
            patients=nih_patients(related),
        ),
    )


@pytest.fixture(scope="module")
def splits(data):
    return CrossValidationSplits(data, 3, 2)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def tiny(recipe=LAST, **more):
    return Configuration("tiny", TinyNet, recipe, **more)


def run(splits, store, configuration=None, share=1.0):
    arguments = configuration or tiny(), splits, store, CPU, StopSignals()
    return cross_validate(*arguments, share)


def test_every_image_is_held_out_once_per_repeat_and_repeats_differ(splits):
    for repeat in range(splits.repeats):
        rows = [splits.fold(repeat, number, choosing=False).rows for number in range(splits.folds)]
        assert sorted(np.concatenate(rows)) == list(range(len(splits.pool)))
    assert (splits.assignment[0] != splits.assignment[1]).any()


def test_first_repeat_has_the_folds_of_every_other_script(data, splits):
    for number, one in enumerate(make_folds(data, 3, "train+val", FOLDS_SEED)):
        fold = splits.fold(0, number, choosing=False)
        assert np.array_equal(fold.held_out.names, one.val.names)
        assert np.array_equal(fold.train.names, one.train.names)


@pytest.mark.parametrize("share", [0.25, 1.0])
@pytest.mark.parametrize("recipe", [RECIPE, dataclasses.replace(RECIPE, related=True)])
def test_no_patient_is_on_two_sides(splits, recipe, share):
    for repeat in range(splits.repeats):
        for number in range(splits.folds):
            fold = splits.fold(repeat, number, choosing=True, share=share)
            trained = crossval.training_images(splits, fold, recipe)
            sides = [set(split.patients) for split in (trained, fold.val, fold.held_out)]
            assert all(sides)
            assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
            if recipe.related:
                assert len(trained) > len(fold.train)


def test_images_that_choose_the_epoch_are_about_an_eighth_of_the_rest(splits):
    fold = splits.fold(0, 0, choosing=True)
    rest = len(fold.train) + len(fold.val)
    assert rest == len(splits.pool) - len(fold.held_out)
    assert 0.05 < len(fold.val) / rest < 0.25


def test_nothing_is_kept_apart_where_the_last_epoch_is_taken(splits):
    fold = splits.fold(0, 0, choosing=False)
    assert fold.val is None
    assert len(fold.train) + len(fold.held_out) == len(splits.pool)


def test_held_out_images_have_no_say_in_their_own_logits(
    data, splits, store, tmp_path, monkeypatch
):
    """Other labels and other neighbours in the fold leave an image's logit what it was."""
    logits = run(splits, store, tiny(RECIPE)).logits
    rows = splits.fold(0, 0, choosing=True).rows
    train, val = data.train, data.val
    flipped = np.concatenate([train.labels, val.labels])
    flipped[rows] = 1 - flipped[rows]
    first, second = np.split(flipped, [len(train)])
    changed = dataclasses.replace(
        data,
        train=dataclasses.replace(train, labels=first),
        val=dataclasses.replace(val, labels=second),
    )
    other = CrossValidationSplits.__new__(CrossValidationSplits)
    other.__dict__ |= {**splits.__dict__, "data": changed, "pool": folds.train_and_val(changed)}
    again = run(other, Store(tmp_path / "other"), tiny(RECIPE)).logits
    assert np.array_equal(again[0, rows], logits[0, rows])
    elsewhere = np.setdiff1d(np.arange(len(flipped)), rows)
    assert not np.array_equal(again[0, elsewhere], logits[0, elsewhere])


def test_test_images_are_never_asked_for(data, splits, store, tmp_path):
    test = data.test
    noise = np.random.default_rng(0).integers(0, 256, test.images.shape, np.uint8)
    other = dataclasses.replace(
        data, test=dataclasses.replace(test, images=noise, labels=1 - test.labels)
    )
    again = run(CrossValidationSplits(other, 3, 2), Store(tmp_path / "other"))
    assert np.array_equal(run(splits, store).logits, again.logits)


def test_repeats_have_seeds_of_their_own(splits, store):
    run(splits, store)
    stored = [json.loads(path.read_text())["what"] for path in store.folder.iterdir()]
    assert {one["recipe"]["seed"] for one in stored} == {7, 8}
    assert len(stored) == 6


def test_an_interrupted_comparison_goes_on_where_it_was(splits, store, tmp_path, monkeypatch):
    straight = run(splits, Store(tmp_path / "straight")).logits
    epochs, whole = [], Trainer.run_epoch

    def stopping(trainer):
        epochs.append(1)
        if len(epochs) == 6:  # in the third fold
            raise Interrupted(2)
        return whole(trainer)

    monkeypatch.setattr(Trainer, "run_epoch", stopping)
    with pytest.raises(Interrupted) as stopped:
        run(splits, store)
    assert "repeat 1 of 2, fold 3 of 3" in stopped.value.when
    assert len(list(store.folder.iterdir())) == 2
    assert np.array_equal(run(splits, store).logits, straight)
    assert len(epochs) == 6 + 4 * 2  # the two stored folds were not trained again
    assert np.array_equal(run(splits, store).logits, straight)
    assert len(epochs) == 6 + 4 * 2


@pytest.mark.parametrize("damage", ["", "{", '{"found": {"logits": [1]}}', '{"found": 3}'])
def test_a_damaged_stored_fold_is_trained_again(splits, store, damage):
    before = run(splits, store).logits
    for path in store.folder.iterdir():
        path.write_text(damage)
    assert np.array_equal(run(splits, store).logits, before)


@pytest.mark.parametrize(
    "other",
    [
        lambda one: dataclasses.replace(one, recipe=dataclasses.replace(one.recipe, lr=0.02)),
        lambda one: dataclasses.replace(one, recipe=dataclasses.replace(one.recipe, seed=8)),
        lambda one: dataclasses.replace(one, arguments={"width": 3}),
        lambda one: dataclasses.replace(one, pretrained=PretrainedWeights("a", "1")),
        lambda one: dataclasses.replace(one, pretrained=PretrainedWeights("a", "2")),
        lambda one: dataclasses.replace(one, build=torch.nn.Identity),
        lambda one: dataclasses.replace(one, prepare=test_what_determines_a_fold_is_in_its_key),
    ],
)
def test_what_determines_a_fold_is_in_its_key(splits, other):
    fold, data = splits.fold(0, 0, choosing=False), splits.data
    own = crossval.fold_key(tiny(), fold, data, CPU)
    assert crossval.fold_key(other(tiny()), fold, data, CPU) != own
    for parts in ((1, 0), (0, 1)):
        another = crossval.fold_key(tiny(), splits.fold(*parts, choosing=False), data, CPU)
        assert another != own
    renamed = dataclasses.replace(tiny(), name="other", recipe=dataclasses.replace(LAST, name="x"))
    assert crossval.fold_key(renamed, fold, data, CPU) == own


def test_every_trainer_is_prepared_before_it_trains(splits, store):
    prepared = []

    def prepare(trainer):
        prepared.append(len(trainer.history))
        with torch.no_grad():
            for p in trainer.model.parameters():
                p.zero_()

    plain = run(splits, store).logits
    other = run(splits, store, tiny(prepare=prepare)).logits
    assert prepared == [0] * (splits.folds * splits.repeats)
    assert not np.allclose(plain, other)


def test_weights_that_have_seen_a_held_out_patient_are_refused(splits, store):
    patient = splits.pool.patients[0]
    seen = {"rows": {"train": [10**6]}, "names": [f"{patient}_999.png"], "phantom": True}
    start = PretrainedWeights("seen.pth", "1", {"weights": {}, "seen": {"trained": seen}})
    with pytest.raises(InputError, match="has seen"):
        run(splits, store, tiny(pretrained=start))
    assert not list(store.folder.iterdir())


def test_related_images_of_unknown_patients_are_warned_of(data, store, capsys):
    nameless = {
        key: dataclasses.replace(getattr(data, key), names=None, patients=None)
        for key in ("train", "val", "test", "related")
    }
    splits = CrossValidationSplits(dataclasses.replace(data, **nameless), 3, 1)
    assert "images of one patient may be in several folds" in capsys.readouterr().err
    fold = splits.fold(0, 0, choosing=False)
    images = crossval.training_images(splits, fold, dataclasses.replace(LAST, related=True))
    assert len(images) == len(fold.train) + len(data.related)


def test_a_loss_that_is_not_finite_names_configuration_and_fold(splits, store):
    with pytest.raises(TrainingError, match="tiny, repeat 1 of 2, fold 1 of 3"):
        run(splits, store, tiny(dataclasses.replace(LAST, std=1e-37)))


def test_smaller_shares_lie_within_larger_ones_and_keep_both_classes():
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 60, 200)
    split = Split(
        np.zeros((200, 16, 16), np.uint8),
        rng.integers(0, 2, 200).astype(np.uint8),
        np.arange(200),
        patients=numbers.astype(str),
    )
    before, patients = np.zeros(200, bool), []
    for share in (0.25, 0.5, 0.75, 1.0):
        rows = share_rows(split, share, 3)
        assert (rows | before).sum() == rows.sum()
        inside = set(split.patients[rows])
        assert not inside & set(split.patients[~rows])
        assert set(split.labels[rows]) == {0, 1}
        before, patients = rows, [*patients, len(inside)]
    assert before.all()
    assert np.allclose(np.array(patients) / patients[-1], [0.25, 0.5, 0.75, 1.0], atol=0.04)


def test_baseline_is_that_of_its_own_study_on_the_first_repeat(data, splits, store, monkeypatch):
    monkeypatch.setattr(baselines, "FOLDS", 3)
    baseline = baselines.BASELINES[1]
    outcome = cross_validate_baseline(baseline, splits, store)
    split, probabilities, _ = baselines.cross_validate(baseline, data)
    place = {image: row for row, image in enumerate(splits.pool.names)}
    own = 1 / (1 + np.exp(-outcome.logits[0, [place[name] for name in split.names]]))
    assert np.allclose(own, probabilities)
    assert np.array_equal(cross_validate_baseline(baseline, splits, store).logits, outcome.logits)


def test_figures_are_those_of_scikit_learn_fold_by_fold(splits, store):
    from sklearn.metrics import accuracy_score, roc_auc_score

    oof = OutOfFold.of(splits, {"tiny": run(splits, store).logits})
    values, drawn, patients = oof.score("tiny", "auc")
    for repeat in range(2):
        areas = []
        for number in range(3):
            rows = splits.fold(repeat, number, choosing=False).rows
            areas.append(roc_auc_score(splits.pool.labels[rows], oof.logits["tiny"][repeat, rows]))
        assert values[repeat] == pytest.approx(np.mean(areas))
        right = accuracy_score(splits.pool.labels, oof.logits["tiny"][repeat] >= 0)
        assert oof.score("tiny", "accuracy")[0][repeat] == pytest.approx(right)
    assert patients == len(np.unique(splits.pool.patients))
    assert drawn.shape[1] == 2 and np.std(drawn) > 0


def test_table_is_read_as_it_was_written(splits, store, tmp_path):
    logits = run(splits, store).logits
    oof = OutOfFold.of(splits, {"tiny": logits, "other": -logits})
    oof.write(tmp_path / "oof.csv")
    again = OutOfFold.read(tmp_path / "oof.csv")
    assert np.allclose(again.logits["tiny"], logits, rtol=5.1e-4, atol=0)  # four digits
    assert np.array_equal(again.logits["tiny"] >= 0, logits >= 0)
    for key in ("origin", "index", "labels", "patients", "folds"):
        assert np.array_equal(getattr(again, key), getattr(oof, key))
    assert list(again.logits) == ["tiny", "other"]
    for name in again.logits:
        assert np.array_equal(again.logits[name], oof.logits[name])
    assert again.gain("tiny", "other", "auc") == oof.gain("tiny", "other", "auc")


def test_noise_is_pooled_over_networks_and_over_their_differences_to_a_classical_one(splits):
    rng = np.random.default_rng(3)
    truth = 2.0 * splits.pool.labels - 1
    logits = {name: truth + 3 * rng.normal(size=(2, len(truth))) for name in "abcdef"}
    logits["svm"] = np.stack([truth + rng.normal(size=len(truth))] * 2)
    oof = OutOfFold.of(splits, logits, classical=["svm"])
    values = np.stack([oof.score(name, "auc")[0] for name in "abcdef"])
    svm = oof.score("svm", "auc")[0]
    gains = oof.gain("a", "b", "auc"), oof.gain("a", "svm", "auc")
    noises = verdicts.noise_of_differences(values), verdicts.noise_of_values(values - svm)
    for gain, over, noise in zip(gains, ("b", "svm"), noises, strict=True):
        assert gain == verdicts.gain(oof.score("a", "auc"), oof.score(over, "auc"), noise)
    assert oof.gain("svm", "a", "auc").error == pytest.approx(gains[1].error)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (None, "is missing"),
        ("", "is empty"),
        ("configuration,repeat\n", "lacks the column 'split'"),
        ("a,b\n1,2\n", "lacks the column 'split'"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, damage, message):
    path = tmp_path / "oof.csv"
    if damage is not None:
        path.write_text(damage)
    with pytest.raises(InputError, match=f"oof.csv' {message}"):
        OutOfFold.read(path)


def test_real_x_rays_are_divided_by_patient(real_npz):
    data = sources.load(str(real_npz), related=True)
    splits = CrossValidationSplits(data, 5, 2)
    for repeat in range(2):
        for number in range(5):
            fold = splits.fold(repeat, number, choosing=True)
            more = crossval.training_images(splits, fold, dataclasses.replace(RECIPE, related=True))
            sides = [set(split.patients) for split in (more, fold.val, fold.held_out)]
            assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])
            assert not sides[0] & set(data.test.patients)
            assert len(more) > len(fold.train)
