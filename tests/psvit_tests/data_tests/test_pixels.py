"""Images of every kind become 8 bits a channel, or are refused in a line that says why."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from psvit.data import Decoded, Files, images, open_data
from psvit.data.pixels import is_grey, look_at, read_image, to_eight_bits
from psvit.data.preprocessing import Preprocessing
from psvit.errors import InputError

RNG = np.random.default_rng(0)
LEVELS = RNG.integers(0, 256, (9, 7), dtype=np.uint8)
"""An image of 8 bits; times 257 it is the same of 16 bits, since 255 * 257 is 65535."""

DEEP = RNG.integers(0, 2**16, (9, 7), dtype=np.uint16)


def write_png16(path, values):
    """A PNG file of 16 bits a channel, (height, width) or (height, width, 3), as the specification has it."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, *channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if channels else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def write_tiff(path, values, bits, order="<", sample_format=1):
    """A TIFF file of grey pixels, as the specification has it: header, one directory, one strip.

    Args:
        path: of the file.
        values: (height, width).
        bits: of a pixel: what `values` have, or 12, two packed in three bytes; the width is even then.
        order: `<` puts the low bytes first, `>` the high ones.
        sample_format: 1 for unsigned integers, 2 for signed ones, 3 for floating-point numbers.
    """
    height, width = values.shape
    if bits == 12:
        strip = b"".join(
            bytes((one >> 4, (one & 15) << 4 | other >> 8, other & 255))
            for one, other in values.reshape(-1, 2).tolist()
        )
    else:
        strip = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = {
        256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 0, 277: 1, 278: height, 279: len(strip),
        339: sample_format,
    }  # fmt: skip
    tags[273] = 8 + 2 + 12 * len(tags) + 4  # where the strip begins
    directory = struct.pack(order + "H", len(tags))
    for tag, value in tags.items():
        directory += struct.pack(order + "HHII", tag, 4, 1, value)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    path.write_bytes(magic + struct.pack(order + "I", 8) + directory + struct.pack(order + "I", 0) + strip)


def write_pgm(path, values):
    path.write_bytes(b"P5 %d %d 65535\n" % values.shape[::-1] + values.astype(">u2").tobytes())


DEPTHS = {
    "png": write_png16,
    "little.tiff": lambda path, values: write_tiff(path, values, 16),
    "big.tiff": lambda path, values: write_tiff(path, values, 16, ">"),
    "pgm": write_pgm,
    "ints.tiff": lambda path, values: write_tiff(path, values.astype(np.int32), 32, "<", 2),
    "pillow.png": lambda path, values: Image.fromarray(values).save(path),
    "pillow.tiff": lambda path, values: Image.fromarray(values.astype(">u2")).save(path),
    "pillow-ints.tiff": lambda path, values: Image.fromarray(values.astype(np.int32)).save(path),
}
"""Ways in which 16 bits of grey come."""


# --- 16 bits


@pytest.mark.parametrize("name", DEPTHS)
def test_the_upper_half_of_16_bits_is_the_image(tmp_path, name):
    path = tmp_path / f"image-{name}"
    for values, expected in ((LEVELS.astype(np.uint16) * 257, LEVELS), (DEEP, DEEP // 256)):
        DEPTHS[name](path, values)
        assert is_grey(look_at(str(path)).mode)
        grey, colour = read_image(str(path), "L"), read_image(str(path), "RGB")
        assert (grey.mode, colour.mode) == ("L", "RGB")
        assert np.array_equal(np.asarray(grey), expected)
        assert np.array_equal(np.asarray(colour), np.repeat(expected[..., None], 3, axis=2))


def test_grey_and_colour_of_16_bits_become_the_same(tmp_path):
    write_png16(tmp_path / "grey.png", DEEP)
    write_png16(tmp_path / "colour.png", np.repeat(DEEP[..., None], 3, axis=2))
    assert not is_grey(look_at(str(tmp_path / "colour.png")).mode)
    grey, colour = (read_image(str(tmp_path / f"{name}.png"), "RGB") for name in ("grey", "colour"))
    assert np.array_equal(np.asarray(grey), np.asarray(colour))


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "I"])
def test_16_bits_in_memory_are_scaled_too(mode):
    picture = Image.new(mode, (4, 3), 0x8765)
    assert is_grey(picture.mode)
    assert set(np.asarray(to_eight_bits(picture, "L", "mine")).ravel()) == {0x87}


def test_12_bits_of_a_tiff_file_are_scaled_by_12(tmp_path):
    values = DEEP[:, :6]
    write_tiff(tmp_path / "image.tiff", values >> 4, 12)
    assert np.array_equal(np.asarray(read_image(str(tmp_path / "image.tiff"), "L")), values >> 8)


def test_signed_16_bits_are_scaled_where_nothing_is_negative(tmp_path):
    path = tmp_path / "image.tiff"
    write_tiff(path, (DEEP // 2).astype(np.int16), 16, "<", 2)
    assert np.array_equal(np.asarray(read_image(str(path), "L")), DEEP // 512)
    write_tiff(path, DEEP.view(np.int16), 16, "<", 2)
    with pytest.raises(InputError, match=r"image\.tiff: its pixels are 32-bit integers from -\d+ to "):
        read_image(str(path), "L")


# --- what is refused


def float_tiff(path):
    write_tiff(path, LEVELS.astype(np.float32) / 255, 32, "<", 3)
    return ["floating-point numbers", "save it with 8 or 16 bits"]


def large_integers(path):
    write_tiff(path, DEEP.astype(np.int32) + 5, 32, "<", 2)
    values = DEEP.astype(np.int64) + 5
    values[0, 0] = 70000
    write_tiff(path, values.astype(np.int32), 32, "<", 2)
    return [f"32-bit integers from {values.min()} to 70000", "from 0 to 65535", "save it with 8 or 16 bits"]


def negative_integers(path):
    values = DEEP.astype(np.int32)
    values[1, 2] = -1
    write_tiff(path, values, 32, "<", 2)
    return [f"32-bit integers from -1 to {DEEP.max()}"]


def small_integers(path):
    # Were they taken for 16 bits, the image would be black without a word.
    write_tiff(path, LEVELS.astype(np.int32), 32, "<", 2)
    return [f"32-bit integers from {LEVELS.min()} to {LEVELS.max()}", "some above 255"]


REFUSED = [float_tiff, large_integers, negative_integers, small_integers]


@pytest.mark.parametrize("write", REFUSED)
def test_an_image_without_a_known_range_is_refused_in_one_line(tmp_path, write):
    path = tmp_path / "image.tiff"
    expected = write(path)
    for mode in ("L", "RGB"):
        with pytest.raises(InputError) as error:
            read_image(str(path), mode)
        assert str(error.value).startswith(f"{path}: ")
        assert all(part in str(error.value) for part in expected)
        assert "\n" not in str(error.value)


def test_black_stays_black():
    assert not np.asarray(to_eight_bits(Image.new("I", (4, 3)), "L", "mine")).any()


# --- what stays as it was


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_images_of_8_bits_are_converted_as_pillow_does(mode):
    picture = Image.fromarray(RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    picture = picture.convert("RGB" if mode in ("HSV", "CMYK", "RGBX", "YCbCr") else "RGBA")
    if mode == "PA":
        picture = picture.convert("RGB").convert("P")
    picture = picture.convert(mode)
    assert is_grey(picture.mode) == (mode in ("1", "L"))
    for wanted in ("L", "RGB"):
        assert to_eight_bits(picture, wanted, "mine").mode == wanted
        assert np.array_equal(np.asarray(to_eight_bits(picture, wanted, "mine")), np.asarray(picture.convert(wanted)))


@pytest.mark.parametrize("draft", [False, True])
def test_a_corrupt_image_is_named(tmp_path, draft):
    path = tmp_path / "image.png"
    write_png16(path, DEEP)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"image\.png: not a readable image; mend or remove it"):
        read_image(str(path), "L", draft)
    with pytest.raises(InputError, match=r"mine: not a readable image"):
        to_eight_bits(PngImagePlugin.PngImageFile(path), "L", "mine")
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(InputError, match=r"image\.png: not a readable image"):
        look_at(str(path))


# --- where images enter


def make_folder(root, write, ending):
    """A folder of two classes with ten and two images each of 16 bits; returns the values by path."""
    found = {}
    for part, number in (("train", 10), ("val", 2)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for index in range(number):
                path = root / part / name / f"{index}.{ending}"
                found[path] = RNG.integers(0, 2**16, (8, 8), dtype=np.uint16)
                write(path, found[path])
    return found


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(("write", "ending"), [(write_png16, "png"), (DEPTHS["big.tiff"], "tiff"), (write_pgm, "pgm")])
def test_a_folder_of_16_bits_of_grey_has_one_channel_and_the_right_pixels(tmp_path, monkeypatch, write, ending, kept):
    if not kept:
        monkeypatch.setattr(images, "MEMORY_LIMIT", 0)
    values = make_folder(tmp_path, write, ending)
    found = open_data(str(tmp_path))
    assert found.in_chans == 1
    assert isinstance(found.train.pictures, Decoded if kept else Files)
    for part, name in ((found.all_train, "train"), (found.val, "val")):
        seen = {np.asarray(part[index][0]).tobytes() for index in range(len(part))}
        expected = {(array >> 8).astype(np.uint8).tobytes() for path, array in values.items() if name in path.parts}
        assert seen == expected


def test_16_bits_of_grey_among_colour_images_are_not_white(tmp_path):
    values = make_folder(tmp_path, write_png16, "png")
    Image.new("RGB", (8, 8), (9, 8, 7)).save(tmp_path / "train/cat/0.png")
    found = open_data(str(tmp_path))
    assert found.in_chans == 3
    seen = {np.asarray(found.val[index][0])[..., 1].tobytes() for index in range(len(found.val))}
    assert seen == {(array >> 8).astype(np.uint8).tobytes() for path, array in values.items() if "val" in path.parts}


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("write", REFUSED)
def test_a_folder_with_an_image_without_a_known_range_is_refused_at_once(tmp_path, monkeypatch, write, kept, part):
    if not kept:
        monkeypatch.setattr(images, "MEMORY_LIMIT", 0)
    make_folder(tmp_path, DEPTHS["little.tiff"], "tiff")
    expected = write(tmp_path / part / "dog/1.tiff")
    with pytest.raises(InputError) as error:
        open_data(str(tmp_path))
    assert str(error.value).startswith(f"{tmp_path / part / 'dog/1.tiff'}: ")
    assert all(words in str(error.value) for words in expected)


def test_a_folder_of_floating_point_images_is_refused(tmp_path):
    make_folder(tmp_path, lambda path, values: write_tiff(path, values.astype(np.float32), 32, "<", 3), "tiff")
    with pytest.raises(InputError, match=r"tiff: its pixels are floating-point numbers"):
        open_data(str(tmp_path))


class Pairs(list):
    """A data set as timm gives it, which converts nothing."""

    classes = ("cat", "dog")

    @property
    def targets(self):
        return [label for _, label in self]


@pytest.fixture
def timm_set(monkeypatch):
    """A function that puts pictures in the place of a data set that timm knows, and opens it."""

    def open_with(pictures):
        def create(name, split, **options):
            # What timm would convert itself would be clipped.
            assert options["input_img_mode"] is None
            return Pairs((picture, index % 2) for index, picture in enumerate(pictures))

        monkeypatch.setattr("timm.data.create_dataset", create)
        return open_data("hfds/mine")

    return open_with


def test_a_data_set_of_timms_is_scaled_too(timm_set):
    values = RNG.integers(0, 2**16, (20, 8, 8), dtype=np.uint16)
    found = timm_set([Image.fromarray(one) for one in values])
    assert found.in_chans == 1
    assert np.array_equal(found.val.pictures.pixels, values >> 8)
    mixed = timm_set([Image.new("RGB", (8, 8)), *(Image.fromarray(one) for one in values[1:])])
    assert mixed.in_chans == 3
    assert np.array_equal(mixed.val.pictures.pixels[1:], np.repeat((values[1:] >> 8)[..., None], 3, axis=3))


def test_an_image_of_a_data_set_of_timms_that_is_refused_is_named(timm_set):
    pictures = [Image.new("L", (8, 8))] * 20
    pictures[7] = Image.new("F", (8, 8))
    with pytest.raises(InputError, match=r"^data 'hfds/mine', train, image 7: its pixels are floating-point"):
        timm_set(pictures)


@pytest.mark.parametrize("in_chans", [1, 3])
def test_a_trained_network_sees_16_bits_as_8(tmp_path, in_chans):
    wants = Preprocessing(
        image_size=(8, 8), in_chans=in_chans, mean=(0.5,) * in_chans, std=(0.25,) * in_chans, classes=("a", "b")
    )
    write_png16(tmp_path / "deep.png", LEVELS.astype(np.uint16) * 257)
    Image.fromarray(LEVELS).save(tmp_path / "flat.png")
    expected = wants.read(tmp_path / "flat.png")
    for image in (tmp_path / "deep.png", str(tmp_path / "deep.png"), Image.open(tmp_path / "deep.png")):
        assert (wants.read(image) == expected).all()
    with pytest.raises(InputError, match=r"^image: its pixels are floating-point"):
        wants.read(Image.new("F", (9, 9)))
    float_tiff(tmp_path / "image.tiff")
    with pytest.raises(InputError, match=r"image\.tiff: its pixels are"):
        wants.read(Image.open(tmp_path / "image.tiff"))


def test_an_image_that_is_too_large_is_told_so(tmp_path, monkeypatch):
    Image.new("L", (30, 30)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"large\.png: has too many pixels"):
        read_image(str(tmp_path / "large.png"), "L")
