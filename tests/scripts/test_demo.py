"""The page of `export.py --demo`: what the folder holds, and what a browser makes of it."""

import csv
import errno
import functools
import http.server
import importlib.util
import json
import os
import re
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, status_of
from PIL import Image
from tiny_train import RECIPE, TinyNet
from torch.torch_version import TorchVersion

import export
import predict
from chestlab.data import sources
from chestlab.data.inverted import FRONTAL, correlations
from chestlab.data.phantom import make_phantom
from chestlab.data.provenance import record
from chestlab.data.splits import Split
from chestlab.files.errors import InputError
from chestlab.runs import demo_page
from chestlab.training import onnx_model
from chestlab.training.averages import TrainedAverage
from chestlab.training.inference import TrainedModel
from chestlab.training.likeness import Likeness

pytestmark = pytest.mark.skipif(
    TorchVersion(torch.__version__) < onnx_model.OLDEST_TORCH,
    reason=f"the exporter needs PyTorch {onnx_model.OLDEST_TORCH}",
)

FILES = {
    *("index.html", "demo.js", "demo.css", "doubts.js", "map.js", "picture.js", "messages.json"),
    *("page.json", "network.onnx", "prepare.onnx"),
    *(f"samples/{number}.png" for number in (1, 2, 3, 4, 5)),
}
PACKAGE = "ONNXRUNTIME_WEB"  # a folder with node_modules/onnxruntime-web
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Phantoms of 64 px: their statistics are taken at 28 px."""
    path = tmp_path_factory.mktemp("data") / "p64.npz"
    np.savez(path, **make_phantom(size=64, train=96, val=40, test=10, seed=3))
    return sources.load(str(path))


@pytest.fixture(scope="module")
def trained(data):
    """A tiny network whose logits vary as those of a trained one; both scripts are given it."""
    torch.manual_seed(1)
    model = TinyNet().train()
    images = torch.from_numpy(data.val.images)[:, None].float() / 127.5 - 1
    with torch.no_grad():
        for _ in range(30):
            model(images)
        model.eval()
        logits = model(images)
        model.layers[-1].weight *= 1.5 / logits.std()
        model.layers[-1].bias -= model(images).mean()
    known = TrainedModel(
        name="tiny",
        architecture="TinyNet",
        model=model,
        recipe=RECIPE,
        threshold=0.45,
        tta="flip",
        size=64,
        source=data.source,
        sha256=data.sha256,
        note="",
        seen={"trained": record([("train", data.train)])},
        device=torch.device("cpu"),
        temperature=1.3,
        likeness=Likeness.fit(data.train.images, data.val.images),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "load_trained", lambda options, find: (known, [Path("tiny.pth")]))
        patch.setattr(export, "load_data", lambda *arguments: data)
        patch.setattr(predict, "pick_checkpoint", lambda options: None)
        patch.setattr(predict, "load_model", lambda *arguments: known)
        yield known


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """The page, with onnxruntime-web on a CDN."""
    place = tmp_path_factory.mktemp("demo")
    cdn = demo_page.find_runtime([])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_page, "find_runtime", lambda places: cdn)
        patch.chdir(place)
        assert status_of(export.main, ["--demo", "page"]) == 0
    return place / "page"


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def templates(*names):
    return [(demo_page.TEMPLATE / name).read_text(encoding="utf-8") for name in names]


def test_the_folder_holds_the_page_the_network_and_its_facts(folder, trained, data):
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names == FILES and list(folder.parent.iterdir()) == [folder]
    page = read_json(folder / "page.json")
    correct = (trained.probabilities(data.val.images) >= 0.45) == (data.val.labels == 1)
    assert page["threshold"] == 0.45 and page["size"] == 64
    assert page["counts"] == data.counts()["train"]
    assert page["phantom"] and page["source"].startswith("PHANTOM DATA")
    assert "no X-rays" in page["licence"] and page["map"] == [16, 16]
    assert page["validation"]["n"] == 40
    assert page["validation"]["accuracy"] == pytest.approx(correct.mean())
    assert sum(level["n"] for level in page["sureness"]) == 40
    assert sum(level["correct"] for level in page["sureness"]) == correct.sum()
    kinds = [sample["kind"] for sample in page["samples"]]
    assert kinds == 2 * ["cardiomegaly"] + 2 * ["pneumothorax"] + ["inverted"]
    first, last = (np.array(Image.open(folder / f"samples/{number}.png")) for number in (1, 5))
    assert first.shape == (256, 256) and np.array_equal(last, 255 - first)


def test_the_square_and_then_the_network_give_the_networks_probability(folder):
    square = onnx_model.run_model((folder / "prepare.onnx").read_bytes())
    network = onnx_model.run_model((folder / "network.onnx").read_bytes())
    pictures = np.random.default_rng(0).integers(0, 256, (3, 1, 90, 201), dtype=np.uint8)
    (squares,) = square(pictures)
    assert squares.shape == (3, 1, 64, 64) and squares.dtype == np.uint8
    for two, one in zip(network(squares), network(pictures), strict=True):
        assert np.array_equal(two, one)


def test_the_policy_allows_the_pages_own_files_and_two_of_the_cdn(folder):
    html = (folder / "index.html").read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    cdn = "https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/"
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules == {
        "default-src": "'none'",
        "script-src": f"'self' 'wasm-unsafe-eval' {cdn}ort.wasm.bundle.min.mjs",
        "connect-src": f"'self' {cdn}ort-wasm-simd-threaded.wasm",
        "style-src": "'self'",
        "img-src": "blob: data:",
        "form-action": "'none'",
        "base-uri": "'none'",
    }
    assert html.index("Content-Security-Policy") < html.index("<script")
    runtime = read_json(folder / "page.json")["runtime"]
    assert runtime["version"] == "1.30.0"
    for key, name in (("script", demo_page.SCRIPT), ("wasm", demo_page.WASM)):
        found = {"address": cdn + name, "integrity": demo_page.CDN_HASHES[name]}
        assert runtime[key] == found and re.fullmatch(r"sha384-[\w+/]{64}", found["integrity"])
    addresses = re.findall(r"https?://[^\s\"']+", "".join(templates("index.html", "demo.js")))
    assert not addresses
    assert not re.search(r"<[^>]+ (style|on\w+)=|<script>|<style", html)


def test_onnxruntime_web_is_copied_from_node_modules(tmp_path):
    package = tmp_path / "b" / "node_modules" / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text('{"version": "9.8.7"}')
    (package / "dist" / demo_page.SCRIPT).write_bytes(b"script")
    with pytest.raises(InputError, match=r"lacks what the page needs: npm install .*@1\.30"):
        demo_page.find_runtime([tmp_path / "a", tmp_path / "b"])
    (package / "dist" / demo_page.WASM).write_bytes(b"")
    runtime = demo_page.find_runtime([tmp_path / "a", tmp_path / "b"])
    assert runtime.version == "9.8.7" and runtime.files[demo_page.SCRIPT] == b"script"
    # of no bytes at all, as OpenSSL gives it
    empty = "sha384-OLBgp1GsljhM2TJ+sbHjaiH9txEUvgdDTAzHv2P24donTt6/529l+9Ua0vFImLlb"
    assert runtime.hashes[demo_page.WASM] == empty
    assert "script-src 'self' 'wasm-unsafe-eval'; connect-src 'self';" in demo_page.policy(runtime)


def test_both_languages_have_every_text_of_the_page():
    html, *scripts = templates("index.html", "demo.js", "doubts.js", "picture.js", "map.js")
    messages = json.loads(*templates("messages.json"))
    english, indonesian = messages["en"], messages["id"]
    assert list(english) == list(indonesian)
    for key, text in english.items():
        braces = [sorted(re.findall(r"\{(\w+)\}", t)) for t in (text, indonesian[key])]
        assert braces[0] == braces[1] and indonesian[key].strip(), key
    shown = re.findall(r'data-text="(\w+)">([^<]*)<', html)
    assert len(shown) > 10 and all(english[key] == text for key, text in shown)
    script = "".join(scripts)
    used = {key for key, _ in shown} | set(re.findall(r'"(\w+)"', script))
    used |= {key for key in english if re.match(r"(sample|sure|place)_", key)}
    assert set(english) - used == {"Cardiomegaly", "Pneumothorax"}  # of `title`
    named = r'(?:say|tell|PictureError)\(\s*"(\w+)"|key: "(\w+)"|"((?:warn|note|fact)_\w+)"'
    keys = {key for found in re.findall(named, script) for key in found if key}
    assert len(keys) > 40 and keys <= set(english)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--demo", "full"], r"--demo 'full' is not empty: name a new folder, or empty it"),
        (["--demo", "file"], r"--demo 'file' is a file; wanted is a new or empty folder"),
        (["--demo", "no/where"], r"--demo 'no/where': there is no folder 'no'; make it first"),
        (["--demo", "new", "--out", "x.onnx"], r"--out: not allowed with argument --demo"),
        (["--demo", "new", "--opset", "11"], r"--opset: '11' is no opset from 18 to 23"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert status_of(export.main, arguments) == 2
    assert re.fullmatch(rf"error: .*{message}.*\n", capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_leaves_nothing(there, tmp_path, monkeypatch):
    folder = tmp_path / "page"
    if there:
        folder.mkdir()
    written = []

    def write_bytes(self, content):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        written.append(self)
        self.touch()

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write_bytes)
        with pytest.raises(OSError, match="No space left"):
            demo_page.write_folder(folder, {"a": b"1", "samples/b": b"2", "c": b"3"})
    assert list(tmp_path.rglob("*")) == [folder][: int(there)]
    demo_page.write_folder(folder, {"a": b"1", "samples/b": b"2", "c": b"3"})
    assert (folder / "samples" / "b").read_bytes() == b"2" and list(tmp_path.iterdir()) == [folder]


def test_how_often_it_is_right_is_counted_by_how_sure_it_is():
    probabilities = np.float32([0.99, 0.96, 0.02, 0.85, 0.45, 0.35, 0.30, 0.10])
    labels = np.array([1, 0, 0, 1, 1, 0, 1, 0])
    split = Split(np.zeros((8, 28, 28), np.uint8), labels, np.arange(8))
    found = demo_page.sureness(lambda pictures: [probabilities], 0.4, split)
    # sure of itself: .99 .96 .98 | .85 .90 | .65 .70 | .45, which is pneumothorax at this threshold
    assert [level["n"] for level in found] == [1, 2, 2, 3]
    assert [level["correct"] for level in found] == [1, 1, 2, 2]
    text = (ROOT / "docs" / "use_elsewhere.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| from ([\d.]+) \| (.*) \|$", text, flags=re.MULTILINE)
    messages = json.loads(*templates("messages.json"))["en"]
    words = [(level, messages[f"sure_{k}"].lower()) for k, level in enumerate(demo_page.LEVELS)]
    assert [(float(level), word) for level, word in rows] == words[:0:-1]


def test_networks_that_have_trained_on_validation_images_are_not_measured_on_them():
    split = Split(np.zeros((3, 28, 28), np.uint8), np.array([0, 1, 0]), np.arange(3))
    data = SimpleNamespace(val=split)

    def unseen(*records):
        networks = [SimpleNamespace(seen=seen) for seen in records]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(demo_page, "networks_of", lambda trained: networks)
            return demo_page.validation_is_unseen(None, data)

    clean, fold = ({"trained": record([(name, split)])} for name in ("train", "val"))
    assert unseen(clean, clean)
    assert not unseen(clean, fold) and not unseen({})


@pytest.mark.parametrize("size", [28, 64, 101, 20])
def test_likeness_and_inversion_are_computed_as_by_the_script(size, trained, tmp_path):
    """By Node, which runs the page's script without a browser."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node")
    arrays = make_phantom(size=size, train=2, val=2, test=2, seed=4)
    images = np.concatenate([arrays["train_images"], 255 - arrays["test_images"]])
    means = {"own": trained.likeness.mean, "frontal": FRONTAL}
    known = demo_page.likeness_data(trained.likeness) | {"limit": 0}  # everything is unlike it
    limits = dict.fromkeys(["smallest", "widest", "flat_levels", "flat_share", "pale"], 9)
    for mean in means.values():
        negative = {"mean": demo_page.plain(mean.ravel()), "limit": 2}  # and inverted
        page = {"size": size, "likeness": known, "negative": negative, "limits": limits}
        (tmp_path / "page.json").write_text(
            json.dumps([page, images.reshape(-1, size**2).tolist()])
        )
        script = f"""
            import {{ readFileSync }} from "fs";
            import {{ doubts }} from "{(demo_page.TEMPLATE / "doubts.js").as_uri()}";
            const [page, images] = JSON.parse(readFileSync("page.json"));
            const shape = {{ width: 1, height: 1 }};
            const of = (image) => doubts(Uint8Array.from(image), shape, false, page);
            const found = images.map(of).map((all) => all.slice(-2).map((one) => one.values));
            console.log(JSON.stringify(found.map(([a, b]) => [a.r, b.distance])));
        """
        command = [node, "--input-type=module", "-e", script]
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        found = np.array(json.loads(ended.stdout))
        assert np.allclose(found[:, 0], correlations(images, mean), atol=1e-9)
        assert np.allclose(found[:, 1], trained.likeness.distances(255 - images), rtol=1e-5)
        assert np.ptp(found[:, 0]) > 0.5


def test_an_average_without_a_map_has_its_facts_too(trained, data):
    older = replace(trained, likeness=None, note="a note")
    average = TrainedAverage("both", [older, trained], 0.6, of_logits=False)
    figures = {"n": 40, "accuracy": {"after": 0.9}, "auc": {"after": None}}
    texts = dict.fromkeys(["name", "model", "source", "licence", "precision"], "x")
    row = {**texts, "map": None, "validation": figures}

    def run(pictures):
        return [average.probabilities(pictures[:, 0])]

    runtime = demo_page.find_runtime([])
    page = demo_page.page_data(row, average, data, run, runtime)
    json.dumps(page)
    assert page["threshold"] == 0.6 and page["map"] is None and page["note"] == "a note"
    assert page["likeness"]["limit"] == trained.likeness.limit
    page = demo_page.page_data(row, older, data, run, runtime)
    assert page["likeness"] is None and len(page["negative"]["mean"]) == 49


# ---- in a browser


@pytest.fixture(scope="module")
def runtime():
    """onnxruntime-web of a folder; without it or without a browser, a test is skipped."""
    place = Path(os.environ.get(PACKAGE, ROOT))
    if not (place / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip(f"no onnxruntime-web: neither node_modules here nor in what {PACKAGE} names")
    if CHROMIUM is None or importlib.util.find_spec("playwright") is None:
        pytest.skip("no Chromium, or no playwright to drive it")
    return demo_page.find_runtime([place])


@pytest.fixture(scope="module")
def page_folder(runtime, folder, tmp_path_factory):
    """The page with a copy of onnxruntime-web: the same, but for three of its files."""
    copied = tmp_path_factory.mktemp("copied") / "page"
    shutil.copytree(folder, copied)
    for name, content in runtime.files.items():
        (copied / name).write_bytes(content)
    facts = read_json(copied / "page.json")
    for key, name in (("script", demo_page.SCRIPT), ("wasm", demo_page.WASM)):
        facts["runtime"][key] = {"address": f"./{name}", "integrity": runtime.hashes[name]}
    (copied / "page.json").write_text(json.dumps(facts))
    html = demo_page.render(demo_page.PAGE, demo_page.TEMPLATE, policy=demo_page.policy(runtime))
    (copied / "index.html").write_text(html, encoding="utf-8")
    return copied


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address(page_folder):
    handler = functools.partial(Quiet, directory=str(page_folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(runtime):
    from playwright.sync_api import sync_playwright

    flags = ["sandbox", "first-run"]
    disabled = ["gpu", "background-networking", "component-update", "sync"]
    arguments = [*(f"--no-{name}" for name in flags), *(f"--disable-{name}" for name in disabled)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, address):
    """Opens the page, in a browser of this language and width, and waits until it has loaded."""
    contexts = []

    def open_page(locale="en-US", width=1280, prepare=None, **options):
        contexts.append(
            browser.new_context(locale=locale, viewport={"width": width, "height": 900})
        )
        page = contexts[-1].new_page()
        page.errors, page.requests = [], []
        page.on("pageerror", lambda error: page.errors.append(error))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(address)
        page.wait_for_selector("#files:enabled", state="attached", timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()


def cards(page, number):
    """Cards when all have been worked on: the name, then the probability or None."""
    done = f".card:nth-child({number}):is([data-probability], :has(.failure))"
    page.wait_for_selector(done, timeout=60_000)
    return page.query_selector_all(".card")


def save_pictures(folder, images):
    """Pictures of many kinds, sizes and forms, and broken ones."""

    def picture(row, width, height):
        return Image.fromarray(images[row]).resize((width, height), Image.Resampling.BICUBIC)

    folder.mkdir()
    picture(0, 512, 400).save(folder / "grey.png")
    picture(1, 300, 640).save(folder / "narrow.png")
    picture(2, 64, 64).save(folder / "same.png")
    picture(3, 30, 41).save(folder / "small.png")
    picture(4, 9, 12).save(folder / "tiny.png")
    picture(5, 701, 653).save(folder / "grey.jpg", quality=90)
    picture(6, 333, 301).convert("RGB").save(folder / "rgb.jpg", quality=85)
    picture(7, 1030, 900).convert("RGB").save(folder / "rgb.png")
    channels = [picture(row, 200, 200) for row in (8, 9, 10)]
    Image.merge("RGB", channels).save(folder / "colour.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture(11, 320, 300).save(folder / "turned.jpg", exif=turned, quality=90)
    opacity = Image.fromarray(np.tile(np.uint8([0, 128, 255, 255]).repeat(50), (200, 1)))
    Image.merge("LA", [channels[0], opacity]).save(folder / "transparent.png")
    Image.fromarray(images[12] // 5 + 90).save(folder / "pale.png")
    Image.fromarray(255 - images[13]).save(folder / "negative.png")
    Image.fromarray(images[14].astype(np.uint16) * 257).save(folder / "deep.png")
    noise = np.random.default_rng(1).integers(0, 256, (90, 80), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    empty = np.zeros((100, 100), np.uint8)
    empty[:9] = 200
    Image.fromarray(empty).save(folder / "empty.png")
    for name in ("grey.png", "grey.jpg"):
        content = (folder / name).read_bytes()
        (folder / f"cut_{name}").write_bytes(content[: len(content) // 2])
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(folder / "flat.png")
    (folder / "letter.png").write_text("Dear Sir or Madam")
    (folder / "nothing.jpg").write_bytes(b"")
    return sorted(folder.iterdir())


def predicted(paths, *flags):
    """Rows of `predict.py` by file name."""
    table = paths[0].parent.parent / "table.csv"
    assert status_of(predict.main, [*map(str, paths), "--csv", str(table), *flags]) in (0, 1)
    with table.open(newline="", encoding="utf-8") as file:
        return {Path(row["file"]).name: row for row in csv.DictReader(file)}


KINDS = {  # what a warning of predict.py and one of the page have in common
    "inverted": r"looks inverted.*correlation (-?[\d.]+)",
    "unlike": r"unlike the training.*distance ([\d.]+);.*?(\d+) validation.*below ([\d.]+)\)",
    "small": r"(\d+) . (\d+) pixels,? .*enlarged to the training.s (\d+)",
    "wide": r"(\d+) . (\d+) pixels: only the middle (\d+) . (\d+)",
    "empty": r"nearly empty: (\d+)",
    "pale": r"little contrast.*greys of (\d+) to (\d+)",
    "colour": r"(colour)",
}


def kinds_of(warnings):
    found = {}
    for warning in warnings:
        for kind, pattern in KINDS.items():
            if match := re.search(pattern, warning.replace("\u00a0", " ")):
                found[kind] = match.groups()
    return found


@pytest.mark.slow
def test_every_picture_gets_the_probability_and_the_warnings_of_the_script(opened, data, tmp_path):
    paths = save_pictures(tmp_path / "pictures", data.val.images)
    rows = predicted(paths)
    page = opened()
    loading = list(page.requests)
    page.set_input_files("#files", paths)
    shown, seen = cards(page, len(paths)), set()
    for path, card in zip(paths, shown, strict=True):
        row, found = rows[path.name], card.get_attribute("data-probability")
        assert card.query_selector("h3").inner_text() == path.name
        if not row["probability"]:
            assert found is None and "No prediction" in card.inner_text(), path.name
            continue
        assert float(found) == pytest.approx(float(row["probability"]), abs=1e-3), path.name
        name = card.query_selector(".decision").inner_text().lower()
        assert name == row["class"], path.name
        warnings = [item.inner_text() for item in card.query_selector_all(".warnings li")]
        kinds = kinds_of(warnings)
        assert kinds == kinds_of([row["warnings"]]), path.name
        seen |= set(kinds)
        assert ("16 bits" in " ".join(warnings)) == (path.name == "deep.png")
    assert seen == set(KINDS)
    pairs = zip(paths, shown, strict=True)
    failed = [path.name for path, card in pairs if card.query_selector(".failure")]
    assert failed == ["cut_grey.jpg", "cut_grey.png", "flat.png", "letter.png", "nothing.jpg"]
    probabilities = [float(row["probability"]) for row in rows.values() if row["probability"]]
    assert np.ptp(probabilities) > 0.2  # else all this would say little

    # none has left, and none can
    assert page.requests == loading and not page.errors
    for address in ("demo.css", "https://example.org/"):
        sent = "address => fetch(address).then(() => 'sent', error => 'refused')"
        assert page.evaluate(sent, address) == "refused"

    negative = shown[[path.name for path in paths].index("negative.png")]
    negative.query_selector("button").click()
    negative.wait_for_selector("button:has-text('as it is')")
    assert "inverted" in negative.query_selector("h3").inner_text()
    again = predicted([tmp_path / "pictures" / "negative.png"], "--invert", "yes")
    found = float(negative.get_attribute("data-probability"))
    assert found == pytest.approx(float(again["negative.png"]["probability"]), abs=1e-3)


@pytest.mark.slow
def test_the_page_works_with_the_keyboard_alone_and_speaks(opened):
    page = opened()
    focused = "document.activeElement.id || document.activeElement.textContent"
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(focused))
    assert reached[:4] == ["To the pictures", "English", "Indonesia", "files"]
    assert [name[:9] for name in reached[4:]] == [f"Phantom {number}" for number in range(1, 6)]
    page.keyboard.press("Enter")
    cards(page, 1)
    page.wait_for_selector("#status:has-text('Phantom 5, inverted: ')")
    assert re.search(r"(cardiomegaly|pneumothorax), \d+\.\d", page.inner_text("#status"))
    assert "Warnings: " in page.inner_text("#status")
    assert page.get_attribute("#status", "role") == "status"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "map" and page.is_visible(".overlay")
    page.keyboard.press("Space")
    assert not page.is_visible(".overlay") and not page.is_visible("#legend")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.query_selector(".card") is None and page.evaluate(focused) == "pictures"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "files"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    assert chooser.value.is_multiple()
    unnamed = "[...document.querySelectorAll('canvas:not([aria-hidden]), input, button')]"
    labels = f"{unnamed}.filter(e => !(e.ariaLabel || e.textContent || e.labels?.length)).length"
    assert page.evaluate(labels) == 0


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_both_languages_fit_the_width_and_say_everything(opened, width):
    page = opened("id-ID", width)
    assert page.get_attribute("html", "lang") == "id"  # by the browser's language
    page.click("#samples li:nth-child(5) button")
    page.set_input_files("#files", {"name": "rusak.png", "mimeType": "image/png", "buffer": b"?"})
    cards(page, 2)
    sideways = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    texts = {}
    for language, sentence in (("id", "Ini bukan alat medis"), ("en", "This is no medical device")):
        page.click(f"[data-language={language}]")
        assert page.get_attribute("html", "lang") == language
        assert page.get_attribute(f"[data-language={language}]", "aria-pressed") == "true"
        texts[language] = page.inner_text("body")
        assert sentence in texts[language] and "PHANTOM DATA" in texts[language]
        assert "{" not in texts[language] and "undefined" not in texts[language]
        assert page.evaluate(sideways)
    assert "Tidak ada prediksi" in texts["id"] and "No prediction" in texts["en"]
    assert re.search(r"\d,\d.%", texts["id"]) and not re.search(r"\d,\d.%", texts["en"])


def answer_with(content):
    return lambda route: route.fulfill(body=content, content_type="text/javascript")


@pytest.mark.slow
def test_files_that_were_changed_on_the_way_do_not_run(browser, address, runtime):
    """By the hashes: of the script, which a CDN might serve, and of what it computes with."""
    for name in (demo_page.SCRIPT, demo_page.WASM):
        page = browser.new_page()
        page.route(f"**/{name}", answer_with(runtime.files[name] + b"\n"))
        page.goto(address)
        page.wait_for_selector("#status:has-text('could not be loaded')", timeout=60_000)
        assert page.is_disabled("#files")
        page.close()


@pytest.mark.slow
def test_the_page_runs_with_the_files_of_the_cdn(browser, folder, runtime):
    if runtime.version != demo_page.CDN_VERSION:
        pytest.skip(f"onnxruntime-web is {runtime.version}, not {demo_page.CDN_VERSION}")
    assert runtime.hashes == demo_page.CDN_HASHES
    kinds = {".mjs": "text/javascript", ".js": "text/javascript", ".html": "text/html"}

    def answer(route):
        name = route.request.url.split("/", 3)[3] or "index.html"
        of_cdn = runtime.files.get(name.rpartition("/")[2])
        content = (folder / name).read_bytes() if of_cdn is None else of_cdn
        headers = {"access-control-allow-origin": "*"}
        kind = kinds.get(Path(name).suffix, "text/css" if name.endswith("css") else None)
        route.fulfill(body=content, headers=headers, content_type=kind)

    page = browser.new_page(viewport={"width": 800, "height": 600})
    page.route("**/*", answer)
    page.goto("https://pages.example/")
    page.wait_for_selector("#files:enabled", state="attached", timeout=60_000)
    page.click("#samples li:nth-child(1) button")
    assert float(cards(page, 1)[0].get_attribute("data-probability")) > 0
    page.close()
