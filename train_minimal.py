"""EfficientChestNet on ChestMNIST, cardiomegaly against pneumothorax, in one file.

Paste it into a notebook's cell, or run `python train_minimal.py [FILE.npz [EPOCHS]]` (default: the
official file, downloaded, 83 MB, and 100 passes over the training images). It writes
train_minimal_best.pth, the weights of the best epoch, and train_minimal_curves.png.
"""

import os
import sys
from pathlib import Path

if "ipykernel" not in sys.modules:
    os.environ["MPLBACKEND"] = "agg"  # outside a notebook no window is opened

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torchvision.datasets.utils import download_url
from tqdm import tqdm

DATA = None  # the path of an npz file in ChestMNIST's layout; None downloads ChestMNIST (83 MB)
URL = "https://zenodo.org/records/10519652/files/chestmnist.npz?download=1"
EPOCHS = 100
PATIENCE = 15  # epochs without a better validation accuracy, after which training stops
BATCH_SIZE = 32
LR = 1e-3  # the highest of the one-cycle schedule, which begins at a tenth of it
WARMUP = 0.05  # share of the steps in which the learning rate rises
WEIGHT_DECAY = 1e-4
CLIP = 1.0  # largest norm of the gradient
DROPOUT = (0.4, 0.2)  # before the two linear layers of the head
SEED = 42
CARDIOMEGALY, PNEUMOTHORAX = 1, 7  # label columns of classes 0 and 1
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class SqueezeExcitation(nn.Module):
    def __init__(self, channels, squeezed):
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x):
        pooled = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.expand(nn.functional.gelu(self.reduce(pooled))))


def conv_bn(in_channels, out_channels, size, stride=1, groups=1):
    layer = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, 1, groups, bias=False)
    return layer, nn.BatchNorm2d(out_channels)


class Bottleneck(nn.Module):
    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        hidden = 4 * in_channels
        self.skip = stride == 1 and in_channels == out_channels
        self.layers = nn.Sequential(
            *conv_bn(in_channels, hidden, 1), nn.GELU(),
            *conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.GELU(),
            SqueezeExcitation(hidden, in_channels // 4), *conv_bn(hidden, out_channels, 1),
        )  # fmt: skip

    def forward(self, x):
        return x + self.layers(x) if self.skip else self.layers(x)


class EfficientChestNet(nn.Module):
    """Images (N, 1, S, S) to logits (N,); 1,279,377 parameters."""

    def __init__(self, strides=(2, 1, 1, 2), dropout=DROPOUT):
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(1, 32, 3, strides[0]), nn.GELU())
        self.stage1 = nn.Sequential(Bottleneck(32, 32), Bottleneck(32, 64, strides[1]))
        self.stage2 = nn.Sequential(Bottleneck(64, 64), Bottleneck(64, 128, strides[2]))
        widen = Bottleneck(128, 256, strides[3])
        self.stage3 = nn.Sequential(Bottleneck(128, 128), widen, Bottleneck(256, 256))
        self.attention = SqueezeExcitation(256, 64)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout[0]), nn.Linear(256, 128),
            nn.GELU(), nn.Dropout(dropout[1]), nn.Linear(128, 1),
        )  # fmt: skip

    def forward(self, x):
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        return self.head(self.attention(x)).squeeze(1)


def read(path=None):
    """A dataset per split, of images (N, 1, S, S) in -1..1 and labels (N,), and the source."""
    try:
        if path is None:
            path = Path.home() / ".medmnist/chestmnist.npz"
            download_url(URL, path.parent, path.name, "02c8a6516a18b556561a56cbdd36c4a8")
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"ChestMNIST cannot be downloaded ({error}). Download {URL} by hand to '{path}', or "
            "name a file: DATA = 'FILE.npz' at the top, or python train_minimal.py FILE.npz"
        ) from None
    path, splits = Path(path).expanduser(), {}
    try:
        arrays = np.lib.npyio.NpzFile(path)
        for split in ("train", "val", "test"):
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
            assert images.ndim == 3, f"{split}_images: {images.shape}, not (N, S, S)"
            assert labels.shape == (len(images), 14), f"{split}_labels: {labels.shape}, not (N, 14)"
            assert images.dtype == "uint8", f"{split}_images: {images.dtype}, not uint8"
            keep = (labels.sum(1) == 1) & labels[:, [CARDIOMEGALY, PNEUMOTHORAX]].any(1)
            images = torch.from_numpy(images[keep])[:, None] / 127.5 - 1
            labels = torch.from_numpy(labels[keep, PNEUMOTHORAX]).float()
            assert len(labels.unique()) == 2, f"{split}: one of the two classes has no image"
            splits[split] = torch.utils.data.TensorDataset(images, labels)
        return splits, f"{arrays['phantom']} ({path.name})" if "phantom" in arrays else path.name
    except Exception as error:  # a damaged file raises nearly any type
        raise ValueError(f"'{path}' is no npz file in ChestMNIST's layout: {error}") from None


def train_epoch(model, loader, optimizer, scheduler, scaler):
    """Train on every batch once; mean loss and accuracy."""
    model.train()
    losses, correct = [], 0
    for images, labels in loader:
        images, labels = images.to(DEVICE), labels.to(DEVICE)
        with torch.autocast(DEVICE, torch.float16, enabled=DEVICE == "cuda"):
            logits = model(images).float()
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        scheduler.step()
        losses.append(loss.item())
        correct += ((logits >= 0) == (labels == 1)).sum().item()
    return np.mean(losses), correct / len(loader.dataset)


@torch.no_grad()
def evaluate(model, loader):
    """Mean loss, accuracy at probability 0.5, and area under the ROC curve."""
    model.eval()
    batches = [(model(images.to(DEVICE)).cpu(), labels) for images, labels in loader]
    logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    loss = nn.functional.binary_cross_entropy_with_logits(logits, labels).item()
    accuracy = ((logits >= 0) == (labels == 1)).float().mean().item()
    order = (logits[labels == 1][:, None] - logits[labels == 0]).sign()
    return loss, accuracy, (order.mean().item() + 1) / 2


def draw(history, best_epoch, title):
    _, panels = plt.subplots(1, 2, figsize=(11, 4))
    panels[1].axhline(0.9, color="grey", linestyle="--", label="goal")
    for column, (panel, name) in enumerate(zip(panels, ("loss", "accuracy"), strict=True)):
        values = np.array(history)[:, column::2]
        panel.plot(range(1, len(values) + 1), values, label=["training", "validation"])
        panel.axvline(best_epoch, color="grey", linestyle=":", label="best epoch")
        panel.set(xlabel="epoch", ylabel=name)
        panel.legend()
    plt.suptitle(title)
    plt.savefig("train_minimal_curves.png", dpi=120)


def main(splits, source, epochs=EPOCHS):
    torch.manual_seed(SEED)
    loaders = {s: torch.utils.data.DataLoader(splits[s], BATCH_SIZE, s == "train") for s in splits}
    model = EfficientChestNet().to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LR, epochs * len(loaders["train"]), pct_start=WARMUP, anneal_strategy="linear",
        cycle_momentum=False, div_factor=10, final_div_factor=100,
    )  # fmt: skip
    scaler = torch.amp.GradScaler(DEVICE, enabled=DEVICE == "cuda")
    history, best_epoch = [], 0
    for epoch in (bar := tqdm(range(1, epochs + 1), unit="epoch")):
        loss, accuracy = train_epoch(model, loaders["train"], optimizer, scheduler, scaler)
        val_loss, val_accuracy, _ = evaluate(model, loaders["val"])
        bar.set_postfix(loss=loss, val_loss=val_loss, val_accuracy=val_accuracy)
        if val_accuracy > max((row[3] for row in history), default=-1):
            best_epoch = epoch
            torch.save(model.state_dict(), "train_minimal_best.pth")
        history.append((loss, accuracy, val_loss, val_accuracy))
        if epoch - best_epoch >= PATIENCE:
            break
    draw(history, best_epoch, f"EfficientChestNet, {source}")
    model.load_state_dict(torch.load("train_minimal_best.pth", weights_only=True))
    for split in ("val", "test"):
        _, accuracy, auc = evaluate(model, loaders[split])
        print(f"{split}, {source}: accuracy {accuracy:.3f}, AUC {auc:.3f} at epoch {best_epoch}")


if __name__ == "__main__":
    words = sys.argv[1:] if "__file__" in globals() else []  # in a cell they are the kernel's
    if {"-h", "--help"} & set(words):
        sys.exit(print(__doc__.strip()))
    try:
        if len(words) > 2 or not all(word.isdecimal() and int(word) for word in words[1:]):
            raise ValueError("allowed are [FILE.npz [EPOCHS]]: a path, and a number from 1 on")
        splits, source = read(*words[:1] or [DATA])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        if "ipykernel" not in sys.modules:
            sys.exit(2)
    else:
        main(splits, source, *map(int, words[1:]))
    if "__file__" in globals():
        globals().clear()  # or `%run` puts these names in place of a notebook's
