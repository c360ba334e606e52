"""Which values are black and white: the right window for every depth, offset, label and format."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from chestlab.data import grey_values
from chestlab.data.grey_values import Window, choose_window, parse_window, to_grey
from chestlab.data.image_files import read_xray
from chestlab.data.phantom import make_phantom
from chestlab.files.errors import InputError


@pytest.fixture(scope="module")
def grey():
    """A picture (64, 64) of 8 bits as X-rays are: neither 0 nor 255 occurs."""
    image = make_phantom(size=64, train=2, val=2, test=2, seed=1)["train_images"][0]
    image = np.interp(image, (image.min(), image.max()), (9, 231)).round()
    return image.astype(np.uint8)


def deep(grey, bits, offset=0, kind=np.int64):
    return (grey.astype(np.int64) * (2**bits - 1) // 255 + offset).astype(kind)


def labelled(values, label):
    values = values.copy()
    values[1:5, 1:30] = label
    return values


def bounds(values, bits=None):
    window = choose_window(values, bits)
    return window.low, window.high


def difference(grey, values, window):
    return np.abs(to_grey(values, window).astype(int) - grey).max()


@pytest.mark.parametrize("bits", range(9, 17))
def test_the_depth_is_told_from_the_values(grey, bits):
    values = deep(grey, bits, kind=np.uint16)
    assert bounds(values) == (0, 2**bits - 1)
    assert difference(grey, values, choose_window(values)) <= 1


@pytest.mark.parametrize("offset", [-32768, -2048, -1024, 1024, 2048, 8192, 32768])
@pytest.mark.parametrize("bits", [10, 12])
def test_a_round_offset_is_told_from_the_values(grey, bits, offset):
    assert bounds(deep(grey, bits, offset)) == (offset, offset + 2**bits - 1)


@pytest.mark.parametrize("offset", [-1000, 5000, 20_000, 40_000, 50_000])
def test_any_other_offset_is_found_to_a_few_per_cent(grey, offset):
    values = deep(grey, 12, offset)
    assert difference(grey, values, choose_window(values)) < 0.1 * 255


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_pale_picture_is_not_taken_for_one_of_fewer_bits_above_an_offset(grey, bits):
    pale = (40 + grey.astype(int) * 120 // 255).astype(np.uint8)
    assert bounds(deep(pale, bits)) == (0, 2**bits - 1)
    assert not choose_window(deep(pale, bits)).guessed


@pytest.mark.parametrize(("offset", "guessed"), [(1024, True), (2048, True), (32768, False)])
def test_an_offset_within_one_more_bit_is_told_to_be_a_guess(grey, offset, guessed, tmp_path):
    Image.fromarray(deep(grey, 12, offset, np.uint16)).save(tmp_path / "image.png")
    xray = read_xray(tmp_path / "image.png", 64)
    assert xray.window.guessed == guessed == any("guessed" in text for text in xray.warnings)


@pytest.mark.parametrize(("bits", "offset"), [(10, 0), (12, 0), (14, 0), (15, 0), (12, 32768)])
def test_a_burnt_in_label_does_not_count(grey, bits, offset):
    values = labelled(deep(grey, bits, offset), 65535)
    assert bounds(values) == (offset, offset + 2**bits - 1)
    assert choose_window(values).reason.endswith("a label")
    values[30, 30:40] = 0  # dead pixels or padding, below the offset
    assert bounds(values) == (offset, offset + 2**bits - 1)


def test_a_label_with_smoothed_edges_does_not_count(grey):
    values = labelled(deep(grey, 12), 65535)
    values[1, 30], values[5, 1], values[5, 29] = 9000, 21_000, 50_000
    assert bounds(values) == (0, 4095)


def test_16_bits_with_a_bright_half_and_8_bits_are_left_as_they_are(grey):
    for values in (deep(grey, 16, kind=np.uint16), labelled(deep(grey, 16), 65535)):
        window = choose_window(values)
        assert (window.low, window.high, window.reason) == (0, 65535, "")
        assert np.array_equal(to_grey(values, window), np.rint(values / 257))
    dark = grey // 8
    assert choose_window(dark) == grey_values.EIGHT_BITS
    assert to_grey(dark, grey_values.EIGHT_BITS) is dark


def test_the_stated_depth_counts_unless_the_values_contradict_it(grey):
    dark = deep(grey // 3, 12)
    assert dark.max() < 2048 and bounds(dark, bits=12) == (0, 4095)
    assert bounds(deep(grey, 14), bits=12) == (0, 16383)
    assert bounds(deep(grey, 10), bits=15) == (0, 1023)


def test_floating_point_ranges(grey):
    values = grey / 255
    for low, high in ((0, 1), (-1, 1), (0, 255)):
        assert bounds(low + values * (high - low)) == (low, high)
    assert bounds(deep(grey, 12).astype(np.float32)) == (0, 4095)
    rescaled = choose_window(values * 2000 - 1000.5)
    assert (rescaled.low, rescaled.high, rescaled.guessed) == (-1024, 1023, True)
    unknown = choose_window(values * 7 - 3)
    assert unknown.guessed and -3 < unknown.low < -2 < 3 < unknown.high < 4


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    with pytest.raises(InputError, match="not finite"):
        choose_window(np.full((8, 8), value))


@pytest.mark.parametrize("values", [np.full((8, 8), 3000), np.arange(3000, 3064).reshape(8, 8)])
def test_what_has_hardly_any_contrast_is_not_stretched(values):
    grey = to_grey(values, choose_window(values.astype(np.uint16)))
    assert int(grey.max()) - int(grey.min()) <= 5


def test_windows_of_the_command_line():
    assert parse_window("-1024,3071.5") == Window(-1024, 3071.5, "as --window says")
    assert str(parse_window("0,4095")) == "0,4095"
    values = np.array([[-5, 0, 40, 100, 900]])
    assert to_grey(values, Window(0, 100)).tolist() == [[0, 0, 102, 255, 255]]
    for text in ("", "5", "5,5", "9,1", "a,b", "0,inf", "0,1,2", "nan,1"):
        with pytest.raises(InputError, match="LOW,HIGH"):
            parse_window(text)


# The same picture in files: the reader finds the same window.


def png16(channels, colour_type, chunk=b""):
    """A PNG of 16 bits a channel, which Pillow does not write for colours."""
    height, width = channels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in channels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)

    def part(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    parts = part(b"IHDR", header) + chunk + part(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + parts + part(b"IEND", b"")


def sbit(bits):
    return (
        struct.pack(">I", 1)
        + b"sBIT"
        + bytes([bits])
        + struct.pack(">I", zlib.crc32(b"sBIT" + bytes([bits])))
    )


def saved(values, form="TIFF", **options):
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, form, **options)
    return stream.getvalue()


def tiff(values, order, signed=False):
    """A TIFF of 16 bits, grey or in colour, little (II) or big (MM) endian; Pillow writes none."""
    sign = "<" if order == b"II" else ">"
    height, width, channels = values.shape
    data = values.astype(f"{sign}{'i' if signed else 'u'}2").tobytes()
    photometric, depth = (1, 16) if channels == 1 else (2, 8)  # where three depths stand
    inline = "HHIHH" if channels == 1 else "HHII"
    depths = (258, 3, channels, depth, 0)[: len(inline)]
    numbers = {256: width, 257: height, 259: 1, 262: photometric, 273: 14, 277: channels}
    numbers |= {278: height, 279: len(data), 339: 2 if signed else 1}
    entries = [struct.pack(f"{sign}HHII", tag, 4, 1, value) for tag, value in numbers.items()]
    entries.insert(2, struct.pack(f"{sign}{inline}", *depths))
    head = order + struct.pack(f"{sign}HI3H", 42, 14 + len(data), 16, 16, 16)
    return head + data + struct.pack(f"{sign}H", len(entries)) + b"".join(entries) + bytes(4)


def rgb(values):
    return np.dstack([values] * 3)


def opaque(values):
    return np.full_like(values, 65535)


FILES = {
    "PNG": lambda v, _: saved(v.astype(np.uint16), "PNG"),
    "PNG in colour": lambda v, _: png16(rgb(v), 2),
    "PNG with opacity": lambda v, _: png16(np.dstack([v, opaque(v)]), 4),
    "PNG in colour with opacity": lambda v, _: png16(np.dstack([rgb(v), opaque(v)]), 6),
    "TIFF": lambda v, _: saved(v.astype(np.uint16)),
    "TIFF of 32 bits": lambda v, _: saved(v.astype(np.int32)),
    "TIFF of floats": lambda v, _: saved(v.astype(np.float32)),
    "deflated TIFF": lambda v, _: saved(v.astype(np.uint16), compression="tiff_adobe_deflate"),
    "TIFF with white 0": lambda v, b: saved((2**b - 1 - v).astype(np.uint16), tiffinfo={262: 0}),
    "TIFF in colour": lambda v, _: tiff(rgb(v), b"II"),
    "big-endian TIFF in colour": lambda v, _: tiff(rgb(v), b"MM"),
    "JPEG 2000": lambda v, _: saved(v.astype(np.uint16), "JPEG2000"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("bits", [12, 15])
def test_each_kind_of_file_shows_the_same_grey(kind, bits, grey, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(FILES[kind](deep(grey, bits), bits))
    xray = read_xray(path, 64)
    assert np.abs(xray.seen.astype(int) - grey).max() <= 1
    assert str(xray.window) == f"0,{2**bits - 1}" and not xray.warnings


def test_pgm_says_which_value_is_white(grey, tmp_path):
    dark = grey // 3
    content = b"P5 64 64 4095\n" + deep(dark, 12).astype(">u2").tobytes()
    (tmp_path / "image.pgm").write_bytes(content)
    seen = read_xray(tmp_path / "image.pgm", 64).seen
    assert np.abs(seen.astype(int) - dark).max() <= 1


@pytest.mark.parametrize("order", [b"II", b"MM"])
def test_signed_values_in_a_tiff(grey, order, tmp_path):
    values = deep(grey, 12, -1024)[..., None]
    (tmp_path / "image.tif").write_bytes(tiff(values, order, signed=True))
    xray = read_xray(tmp_path / "image.tif", 64)
    assert (xray.window.low, xray.window.high) == (-1024, 3071)
    assert np.abs(xray.seen.astype(int) - grey).max() <= 1


def test_signed_values_of_8_bits_in_a_tiff(grey, tmp_path):
    content = bytearray(tiff(np.zeros((64, 64, 1)), b"II", signed=True))
    directory, data = len(content) - 4 - 2 - 12 * 10, (grey.astype(int) - 128).astype(np.int8)
    entries = content[directory:].replace(
        struct.pack("<HHIHH", 258, 3, 1, 16, 0), struct.pack("<HHIHH", 258, 3, 1, 8, 0)
    )
    content[14 : 14 + data.size], content[directory:] = data.tobytes(), entries
    (tmp_path / "image.tif").write_bytes(content)
    xray = read_xray(tmp_path / "image.tif", 64)
    assert np.array_equal(xray.seen, grey) and str(xray.window) == "-128,127"


def test_unsigned_values_of_32_bits_in_a_tiff(grey, tmp_path):
    values = (grey.astype(np.int64) << 24).astype(np.uint32).view(np.int32)
    content = saved(values)
    signed, unsigned = (struct.pack("<HHIHH", 339, 3, 1, kind, 0) for kind in (2, 1))
    assert signed in content
    (tmp_path / "image.tif").write_bytes(content.replace(signed, unsigned))
    xray = read_xray(tmp_path / "image.tif", 64)
    assert np.abs(xray.seen.astype(int) - grey).max() <= 1 and xray.window.low == 0


def test_a_png_may_state_its_depth(grey, tmp_path):
    dark = deep(grey // 3, 12)[..., None]
    (tmp_path / "stated.png").write_bytes(png16(dark, 0, sbit(12)))
    (tmp_path / "not.png").write_bytes(png16(dark, 0))
    stated = read_xray(tmp_path / "stated.png", 64)
    assert str(stated.window) == "0,4095" and stated.window.reason == "12 bits, as the file says"
    assert np.abs(stated.seen.astype(int) - grey // 3).max() <= 1
    assert str(read_xray(tmp_path / "not.png", 64).window) == "0,2047"


def test_a_given_window_is_used_for_every_depth(grey, tmp_path):
    window = parse_window("20,120")
    expected = np.rint(np.clip((grey.astype(float) - 20) / 100, 0, 1) * 255)
    for kind in (np.uint8, np.uint16):
        Image.fromarray(grey.astype(kind)).save(tmp_path / "image.png")
        xray = read_xray(tmp_path / "image.png", 64, window)
        assert np.array_equal(xray.seen, expected) and xray.window == window


def test_what_is_transparent_in_16_bits_is_black_and_all_of_it_is_refused(grey, tmp_path):
    values, alpha = deep(grey, 16), opaque(deep(grey, 16))
    alpha[:, :32] = 0
    (tmp_path / "image.png").write_bytes(png16(np.dstack([values, alpha]), 4))
    seen = read_xray(tmp_path / "image.png", 64).seen
    assert not seen[:, :32].any() and np.array_equal(seen[:, 32:], grey[:, 32:])
    (tmp_path / "image.png").write_bytes(png16(np.dstack([values, alpha * 0]), 4))
    with pytest.raises(InputError, match="fully transparent"):
        read_xray(tmp_path / "image.png", 64)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_value_that_a_grey_png_calls_transparent_is_black(bits, grey, tmp_path):
    values = deep(grey, bits, kind=np.uint8 if bits == 8 else np.uint16)
    white = 2**bits - 1
    values[:, :32] = white
    Image.fromarray(values).save(tmp_path / "image.png", transparency=white)
    xray = read_xray(tmp_path / "image.png", 64)
    assert not xray.seen[:, :32].any() and str(xray.window) == f"0,{white}"
    assert np.abs(xray.seen[:, 32:].astype(int) - grey[:, 32:]).max() <= 1
    Image.fromarray(values * 0 + 7).save(tmp_path / "image.png", transparency=7)
    with pytest.raises(InputError, match="fully transparent"):
        read_xray(tmp_path / "image.png", 64)


def test_the_colour_that_a_16_bit_png_calls_transparent_is_black(grey, tmp_path):
    values = deep(grey, 16)
    values[:, :32] = 65535
    content = struct.pack(">4s3H", b"tRNS", *[65535] * 3)
    chunk = struct.pack(">I", 6) + content + struct.pack(">I", zlib.crc32(content))
    (tmp_path / "image.png").write_bytes(png16(rgb(values), 2, chunk))
    seen = read_xray(tmp_path / "image.png", 64).seen
    assert not seen[:, :32].any() and np.array_equal(seen[:, 32:], grey[:, 32:])
