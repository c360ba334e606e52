"""EfficientChestNet on ChestMNIST, cardiomegaly against pneumothorax, in one file.

Paste it into a notebook's cell, or run `python train_minimal.py [FILE.npz [EPOCHS]]`. Without a
file, medmnist downloads the official one (83 MB). It writes the weights of the epoch with the best
validation accuracy to train_minimal_best.pth, and train_minimal_curves.png.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from tqdm import tqdm

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
TRANSFORM = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
AMP = (torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16) if CUDA else None


class TwoClassDataset(Dataset):
    """Images (N, S, S) uint8, each through the transform, and labels (N,) as floats."""

    def __init__(self, images, labels, transform=TRANSFORM):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return self.transform(self.images[row]), np.float32(self.labels[row])


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
            SqueezeExcitation(hidden, in_channels // 4),
            *conv_bn(hidden, out_channels, 1),
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
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Dropout(dropout[0]), nn.Linear(256, 128), nn.GELU(),
            nn.Dropout(dropout[1]), nn.Linear(128, 1),
        )  # fmt: skip

    def forward(self, x):
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        return self.head(self.attention(x)).squeeze(1)


def read(path=None):
    """Images and labels of each split, of the two classes alone, and the source's name."""
    if path is None:
        from medmnist import ChestMNIST

        path = Path(ChestMNIST(split="train", download=True).root) / "chestmnist.npz"
    arrays, source, splits = np.load(path), Path(path).name, {}
    for split in ("train", "val", "test"):
        labels = arrays[f"{split}_labels"]
        keep = (labels.sum(1) == 1) & labels[:, [CARDIOMEGALY, PNEUMOTHORAX]].any(1)
        splits[split] = arrays[f"{split}_images"][keep], labels[keep, PNEUMOTHORAX]
    return splits, f"{arrays['phantom']} ({source})" if "phantom" in arrays else source


def train_epoch(model, loader, optimizer, scheduler, scaler, amp=AMP, clip=CLIP, accumulate=1):
    """Train on every batch once, with a step after `accumulate`; mean loss and accuracy."""
    model.train()
    device = next(model.parameters()).device
    losses, correct = [], 0
    for number, (images, labels) in enumerate(loader, 1):
        images, labels = images.to(device), labels.to(device)
        with torch.autocast(device.type, amp, enabled=amp is not None):
            logits = model(images).float()
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        scaler.scale(loss / accumulate).backward()
        losses.append(loss.item())
        correct += ((logits >= 0) == (labels == 1)).sum().item()
        if number % accumulate == 0 or number == len(loader):
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            scheduler.step()
    return np.mean(losses), correct / len(loader.dataset)


@torch.no_grad()
def evaluate(model, loader):
    """Mean loss, accuracy at probability 0.5, area under the ROC curve, and logits (N,)."""
    model.eval()
    device = next(model.parameters()).device
    batches = [(model(images.to(device)).cpu(), labels) for images, labels in loader]
    logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    loss = nn.functional.binary_cross_entropy_with_logits(logits, labels).item()
    accuracy = ((logits >= 0) == (labels == 1)).float().mean().item()
    order = (logits[labels == 1][:, None] - logits[labels == 0]).sign()
    return loss, accuracy, (order.mean().item() + 1) / 2, logits


def draw(history, best_epoch, title):
    figure, panels = plt.subplots(1, 2, figsize=(11, 4))
    panels[1].axhline(0.9, color="grey", linestyle="--", label="goal")
    for column, (panel, name) in enumerate(zip(panels, ("loss", "accuracy"), strict=True)):
        values, epochs = np.array(history)[:, column::2], range(1, len(history) + 1)
        panel.plot(epochs, values, label=["training", "validation"])
        panel.axvline(best_epoch, color="grey", linestyle=":", label="best epoch")
        panel.set(xlabel="epoch", ylabel=name)
        panel.legend()
    figure.suptitle(title)
    figure.savefig("train_minimal_curves.png", dpi=120)


def main(path=None, epochs=EPOCHS):
    torch.manual_seed(SEED)
    splits, source = read(path)
    loaders = {s: DataLoader(TwoClassDataset(*splits[s]), BATCH_SIZE, s == "train") for s in splits}
    model = EfficientChestNet().to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LR, epochs * len(loaders["train"]), pct_start=WARMUP, anneal_strategy="linear",
        cycle_momentum=False, div_factor=10, final_div_factor=100,
    )  # fmt: skip
    scaler = torch.amp.GradScaler(DEVICE.type, enabled=AMP is torch.float16)
    history, best_epoch = [], 0
    for epoch in (bar := tqdm(range(1, epochs + 1), unit="epoch")):
        loss, accuracy = train_epoch(model, loaders["train"], optimizer, scheduler, scaler)
        val_loss, val_accuracy, _, _ = evaluate(model, loaders["val"])
        bar.set_postfix(loss=loss, val_loss=val_loss, val_accuracy=val_accuracy)
        if val_accuracy > max((row[3] for row in history), default=0):
            best_epoch = epoch
            torch.save(model.state_dict(), "train_minimal_best.pth")
        history.append((loss, accuracy, val_loss, val_accuracy))
        if epoch - best_epoch >= PATIENCE:
            break
    draw(history, best_epoch, f"EfficientChestNet, {source}")
    model.load_state_dict(torch.load("train_minimal_best.pth", weights_only=True))
    for split in ("val", "test"):
        _, accuracy, auc, _ = evaluate(model, loaders[split])
        print(f"{split}, {source}: accuracy {accuracy:.3f}, AUC {auc:.3f} at epoch {best_epoch}")


if __name__ == "__main__":
    words = [] if sys.argv[-1].endswith(".json") else sys.argv[1:]  # a notebook kernel's own
    is_file = not words or (words[0].endswith(".npz") and Path(words[0]).is_file())
    if not is_file or not all(word.isdigit() and int(word) for word in words[1:]):
        sys.stderr.write("error: allowed are [FILE.npz [EPOCHS]]: an existing file, 1 or more\n")
        sys.exit(2)
    main(*words[:1], *map(int, words[1:2]))
