"""What a network is trained for: the losses, and what counts as correct."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from chestlab.files.errors import TrainingError
from chestlab.training.distributed import ONE_PROCESS, SharedBatches
from chestlab.training.losses import Classification, ProjectionHead, SimCLR, nt_xent
from chestlab.training.recipe import Recipe
from chestlab.training.trainer import Trainer
from resnet_plain import ResNet34


@pytest.mark.parametrize("shape", [(6,), (6, 14)])
def test_classification_is_the_mean_cross_entropy_of_all_labels(shape):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator)
    labels = (torch.rand(shape, generator=generator) < 0.3).float()
    loss, correct = Classification(Recipe("x")).loss(logits, labels, SharedBatches(ONE_PROCESS))
    p = torch.sigmoid(logits)
    wanted = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert correct.item() == ((p >= 0.5).float() == labels).sum().item()


def test_nt_xent_is_the_papers_sum():
    generator = torch.Generator().manual_seed(0)
    z = nn.functional.normalize(torch.randn(10, 6, generator=generator))
    losses, is_correct = [], []
    for i in range(10):
        similar = [math.exp(float(z[i] @ z[k]) / 0.3) for k in range(10)]
        other = (i + 5) % 10
        losses.append(-math.log(similar[other] / (sum(similar) - similar[i])))
        nearest = max((k for k in range(10) if k != i), key=similar.__getitem__)
        is_correct.append(i < 5 and nearest == other)
    for rows in (torch.arange(10), torch.tensor([1, 7, 4])):
        loss, correct = nt_xent(z[rows], z, rows, 0.3)
        assert loss.item() == pytest.approx(sum(losses[i] for i in rows) / len(rows), rel=1e-5)
        assert correct.item() == sum(is_correct[i] for i in rows)


def test_an_image_is_correct_where_its_second_view_is_the_most_similar():
    first = torch.eye(4)
    outputs = torch.cat([first, first[[0, 1, 3, 2]]])
    _, correct = SimCLR(0.2).loss(5 * outputs, torch.zeros(4), SharedBatches(ONE_PROCESS))
    assert correct.item() == 2


def contrastive(n: int) -> Trainer:
    """An epoch of SimCLR on n random images, in batches of 4."""

    def build():
        network = ResNet34(width=8)
        network.fc = ProjectionHead(network.fc.in_features, 8)
        return network

    images, labels = torch.randint(0, 256, (n, 1, 32, 32), dtype=torch.uint8), torch.zeros(n)
    recipe = Recipe("x", epochs=1, batch_size=4, monitor="last")
    none = images[:0], labels[:0]
    return Trainer(build, recipe, (images, labels), none, objective=SimCLR(0.2))


def test_a_contrastive_epoch_is_all_images_once_in_batches_that_differ_by_one_at_most():
    trainer = contrastive(14)
    batches = []
    step = trainer.step
    trainer.step = lambda rows: (batches.append(rows), step(rows))[1]
    trainer.fit()
    assert sorted(torch.cat(batches).tolist()) == list(range(14))
    assert {len(rows) for rows in batches} == {3, 4}
    assert len(batches) == trainer.steps_per_epoch == 4


def test_a_contrastive_batch_is_not_halved_where_memory_is_short():
    def out_of_memory(x):
        raise torch.OutOfMemoryError

    trainer = contrastive(8)
    trainer.forward = out_of_memory
    with pytest.raises(TrainingError, match="out of memory: try a smaller --batch-size"):
        trainer.run_epoch()
