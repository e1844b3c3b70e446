"""Images: the three-way split, folders that cannot be used, and batches."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import psvit
from psvit import Architecture
from psvit.arch.architecture import ArchitectureFile
from psvit.data import (
    Batches,
    Decoded,
    Files,
    ImageData,
    Inputs,
    Labelled,
    accuracy,
    baseline,
    found_data,
    logistic_regression,
    open_data,
    parts,
    sources,
    stratified_split,
)
from psvit.data import batches as batches_module
from psvit.data import images as images_module
from psvit.data.sources import read_digits
from psvit.errors import InputError
from psvit.nn.seeding import seeded
from psvit.space.search_space import SearchSpace
from psvit.train.recipe import Recipe
from psvit.train.training_loader import training_loader

CPU = torch.device("cpu")


def make_folder(root, *, classes=("cat", "dog"), train=10, val=2, size=(8, 8), mode="L"):
    """An image folder; every image has a grey level of its own, so that images can be told apart."""
    level = 0
    for part, number in (("train", train), ("val", val)):
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(number):
                level += 1
                colour = level if mode == "L" else (level, 255 - level, 7)
                Image.new(mode, size, colour).save(folder / f"{index}.png")
    return root


def pixels_of(images: Labelled) -> list[bytes]:
    return [np.asarray(images[index][0]).tobytes() for index in range(len(images))]


# --- the digits


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


def parts_of(data):
    return data.train, data.search, data.verdict, data.val


def test_digits_are_split_in_four(digits):
    # A fifth of 1,797 for validation, then a tenth of the rest for comparing candidates, both rounded up, and as many
    # for the verdict.
    assert [len(part) for part in parts_of(digits)] == [1149, 144, 144, 360]
    assert digits.classes == tuple("0123456789")
    assert (digits.in_chans, digits.image_size) == (1, (8, 8))


def test_every_digit_is_in_exactly_one_part(digits):
    together = [image for part in parts_of(digits) for image in pixels_of(part)]
    # No two of scikit-learn's digits are alike, so equal pixels would be the same image twice.
    assert len(set(together)) == len(together) == 1797
    levels = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    assert {image.tobytes() for image in levels} == set(together)


def test_digits_are_read_as_scikit_learn_reads_them():
    table, source = read_digits(), load_digits()
    assert np.array_equal(table[:, :-1], source.data)
    assert np.array_equal(table[:, -1], source.target)


def test_digits_keep_their_labels(digits):
    source = load_digits()
    levels = np.round(source.images * 255 / 16).astype(np.uint8)
    label_of = {image.tobytes(): int(label) for image, label in zip(levels, source.target, strict=True)}
    for part in parts_of(digits):
        assert [label_of[image] for image in pixels_of(part)] == part.labels.tolist()
        assert [part[index][1] for index in range(len(part))] == part.labels.tolist()


def test_classes_are_in_proportion_in_every_part(digits):
    shares = np.bincount(load_digits().target) / 1797
    for part in (digits.train, digits.search, digits.val):
        counts = np.bincount(part.labels, minlength=10)
        assert np.abs(counts - shares * len(part)).max() <= 2


def test_the_split_belongs_to_the_data_and_not_to_a_run(digits):
    for seed in (1, 2):
        with seeded(seed):
            other = open_data("digits")
        for name in ("train", "search", "val"):
            assert np.array_equal(getattr(digits, name).rows, getattr(other, name).rows)
            assert pixels_of(getattr(digits, name)) == pixels_of(getattr(other, name))


def test_statistics_leave_the_search_images_out(digits):
    images = digits.train.union(digits.verdict)
    pixels = np.stack([np.asarray(images[index][0]) for index in range(len(images))]) / 255
    assert digits.mean == (round(float(pixels.mean()), 4),)
    assert digits.std == (round(float(pixels.std()), 4),)


def test_logistic_regression_reads_the_digits(digits, monkeypatch):
    # On raw pixels it is right well above nine times of ten; pixels or labels out of place would show.
    found = logistic_regression(digits.all_train, digits.val)
    assert 90 < found.accuracy < 100
    assert found.images == found.of == len(digits.all_train)
    # With fewer steps on a part of the images it is a little less.
    monkeypatch.setattr(baseline, "EXACT_VALUES", 10_000)
    monkeypatch.setattr(baseline, "MOST_VALUES", 64 * 300)
    part = logistic_regression(digits.all_train, digits.val)
    assert (part.images, part.of) == (300, len(digits.all_train))
    assert 80 < part.accuracy <= found.accuracy + 2
    assert logistic_regression(digits.all_train, digits.val) == part


def test_logistic_regression_looks_at_images_in_memory_alone():
    in_files = Labelled(Files(["nowhere.png"] * 10, "L"), np.arange(10) % 2)
    assert logistic_regression(in_files, in_files) is None


def test_a_digest_of_images_in_memory_is_of_pixels_and_labels(digits, monkeypatch):
    assert open_data("digits").digest == digits.digest
    table = read_digits()
    for columns in (slice(0, 64), slice(64, 65)):
        others = table.copy()
        values = others[:, columns]
        first, *_ = [index for index in range(len(values)) if not np.array_equal(values[index], values[0])]
        values[[0, first]] = values[[first, 0]]
        monkeypatch.setattr("psvit.data.sources.read_digits", lambda others=others: others)
        assert open_data("digits").digest != digits.digest


def test_folders_may_lie_in_folders_that_are_no_classes(tmp_path):
    root = make_folder(tmp_path / "flat", train=12)
    nested = tmp_path / "nested"
    for part in ("train", "val"):
        shutil.copytree(root / part, nested / part / "animals")
    flat, deep = open_data(str(root)), open_data(str(nested))
    assert deep.classes == flat.classes
    assert [len(part) for part in parts_of(deep)] == [len(part) for part in parts_of(flat)]


@pytest.mark.parametrize("kept", [True, False])
def test_a_digest_of_a_folder_is_of_names_sizes_and_classes_wherever_it_lies(tmp_path, kept):
    root = make_folder(tmp_path / "one", train=12)
    if not kept:
        Image.new("L", (9, 8)).save(root / "train/cat/other.png")
    before = open_data(str(root)).digest
    assert isinstance(open_data(str(root)).train.pictures, Decoded) == kept
    shutil.copytree(root, tmp_path / "copy")
    assert open_data(str(tmp_path / "copy")).digest == before

    def changed(change):
        place = tmp_path / "changed"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(root, place)
        change(place)
        return open_data(str(place)).digest

    digests = {
        changed(lambda place: (place / "train/cat/0.png").unlink()),
        changed(lambda place: shutil.copy(place / "train/cat/0.png", place / "train/cat/new.png")),
        changed(lambda place: (place / "train/cat/0.png").rename(place / "train/cat/99.png")),
        changed(lambda place: (place / "train/cat/0.png").rename(place / "train/dog/99.png")),
        changed(lambda place: (place / "val/cat/0.png").unlink()),
        changed(lambda place: Image.effect_noise((8, 8), 99).save(place / "train/cat/0.png")),
    }
    assert len(digests - {before}) == 6


def test_an_image_that_vanishes_while_a_folder_is_opened_is_named(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "one", size=(8, 8))
    monkeypatch.setattr(sources, "in_memory", lambda files, part: None)
    monkeypatch.setattr(sources, "_check", lambda files, part: (root / "train/cat/3.png").unlink(missing_ok=True))
    with pytest.raises(InputError, match=r"cat/3\.png: not a readable image"):
        pixels_of(open_data(str(root)).train)


def test_the_images_of_a_folder_are_read_when_they_are_first_needed(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "one", size=(8, 8))
    known = open_data(str(root))
    loaded = []
    load = PngImageFile.load
    monkeypatch.setattr(PngImageFile, "load", lambda self: loaded.append(self.filename) or load(self))
    found = found_data(str(root))
    assert (found.digest, found.sizes, found.in_chans) == (known.digest, known.sizes, known.in_chans)
    assert [len(part) for part in (found.all_train, found.val)] == [len(part) for part in (known.all_train, known.val)]
    assert found.val.size is None
    assert not loaded
    assert found.mean == known.mean
    assert found.read().val.size == (8, 8)
    assert len(set(loaded)) == len(found.all_train) + len(found.val)
    before = len(loaded)
    assert pixels_of(found.val) == pixels_of(known.val)
    assert len(loaded) == before


def test_what_is_known_of_the_data_travels_as_json(digits):
    found = digits.describe()
    assert found == {
        "name": "digits",
        "digest": digits.digest,
        "mean": list(digits.mean),
        "std": list(digits.std),
        "classes": list("0123456789"),
    }


# --- splitting


@pytest.mark.parametrize("seed", range(30))
def test_a_stratified_split_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 9))
    labels = np.concatenate(
        [rng.choice(classes, 300, p=rng.dirichlet(np.full(classes, 3.0))), np.arange(classes), np.arange(classes)]
    )
    for size in (0.1, 0.5, int(rng.integers(classes, 200))):
        expected = train_test_split(np.arange(len(labels)), test_size=size, random_state=seed, stratify=labels)
        for found, positions in zip(stratified_split(labels, size, seed), expected, strict=True):
            assert found.tolist() == sorted(positions)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_a_stratified_split_cuts_in_two(fraction):
    labels = np.repeat([0, 1, 2], [100, 50, 50])
    first, second = stratified_split(labels, fraction, seed=0)
    assert sorted([*first, *second]) == list(range(200))
    assert list(first) == sorted(first)
    assert list(second) == sorted(second)
    assert np.bincount(labels[second]).tolist() == [100 * fraction, 50 * fraction, 50 * fraction]
    again, _ = stratified_split(labels, fraction, seed=0)
    other, _ = stratified_split(labels, fraction, seed=1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("labels", [[0] * 30 + [1], [0, 0, 1, 1, 2, 2], [0] * 9 + [1] * 9])
def test_too_few_images_to_split_are_an_input_error(labels):
    with pytest.raises(InputError, match=r"^data 'mine': too few images to hold 10% out") as error:
        stratified_split(np.array(labels), 0.1, seed=0, name="mine")
    assert "\n" not in str(error.value)


# --- labelled images


def labelled(n=6):
    pixels = (np.arange(n, dtype=np.uint8) * 10)[:, None, None] * np.ones((1, 4, 4), dtype=np.uint8)
    return Labelled(Decoded(pixels), np.arange(n) % 3)


def levels(images):
    return [int(np.asarray(images[index][0])[0, 0]) for index in range(len(images))]


def test_parts_are_taken_by_position_in_the_part():
    some = labelled().take(np.array([4, 2, 5]))
    assert levels(some) == [40, 20, 50]
    assert some.labels.tolist() == [1, 2, 2]
    assert [label for _, label in (some[0], some[1], some[2])] == [1, 2, 2]
    again = some.take(np.array([2, 0]))
    assert levels(again) == [50, 40]
    assert again.labels.tolist() == [2, 1]


def test_a_union_is_in_the_order_of_the_images():
    whole = labelled()
    one, other = whole.take(np.array([5, 0, 3])), whole.take(np.array([4, 1]))
    assert levels(one.union(other)) == levels(other.union(one)) == [0, 10, 30, 40, 50]
    assert one.union(other).labels.tolist() == [0, 1, 0, 1, 2]


def test_all_training_images_do_not_depend_on_the_split(digits):
    assert len(digits.all_train) == 1437
    assert np.array_equal(digits.all_train.rows, np.arange(1437))


def test_a_transform_leaves_the_other_views_alone():
    images = labelled()
    shown = images.transformed(lambda picture: picture.size)
    assert shown[2] == ((4, 4), 2)
    assert isinstance(images[2][0], Image.Image)
    assert isinstance(shown.transformed(None)[2][0], Image.Image)


# --- folders


def test_a_folder_is_read(tmp_path):
    data = open_data(str(make_folder(tmp_path, train=20, val=3)))
    assert data.classes == ("cat", "dog")
    assert [len(part) for part in parts_of(data)] == [32, 4, 4, 6]
    assert np.bincount(data.search.labels).tolist() == np.bincount(data.verdict.labels).tolist() == [2, 2]
    assert data.val.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len({image for part in parts_of(data) for image in pixels_of(part)}) == 46
    # Every image is where its class is: the first 20 levels were written for cats.
    for part in (data.train, data.search, data.verdict):
        assert [label == 0 for label in part.labels] == [image[0] <= 20 for image in pixels_of(part)]


@pytest.mark.parametrize("kept", [True, False])
def test_every_image_of_a_folder_knows_its_file(tmp_path, monkeypatch, kept):
    if not kept:
        monkeypatch.setattr(sources, "in_memory", lambda files, part: None)
    data = open_data(str(make_folder(tmp_path, train=20, val=3)))
    for part in parts_of(data):
        for index in range(len(part)):
            assert np.asarray(Image.open(part.path(index))).tolist() == np.asarray(part[index][0]).tolist()
    assert open_data("digits").val.path(0) is None


@pytest.mark.parametrize(("mode", "in_chans"), [("L", 1), ("1", 1), ("RGB", 3), ("RGBA", 3), ("P", 3)])
def test_grey_images_have_one_channel(tmp_path, mode, in_chans):
    root = make_folder(tmp_path)
    for path in root.rglob("*.png"):
        Image.open(path).convert("RGB").convert(mode).save(path)
    data = open_data(str(root))
    assert data.in_chans == in_chans
    assert len(data.mean) == len(data.std) == in_chans
    assert data.train[0][0].mode == ("L" if in_chans == 1 else "RGB")


def test_one_colour_image_makes_all_images_colour(tmp_path):
    root = make_folder(tmp_path)
    Image.new("RGB", (8, 8), (9, 8, 7)).save(root / "train" / "dog" / "3.png")
    data = open_data(str(root))
    assert data.in_chans == 3
    assert {data.train[index][0].mode for index in range(len(data.train))} == {"RGB"}
    assert {data.val[index][0].mode for index in range(len(data.val))} == {"RGB"}


def test_images_of_one_size_are_kept_and_others_stay_in_files(tmp_path):
    same = open_data(str(make_folder(tmp_path / "same", size=(12, 9))))
    assert isinstance(same.train.pictures, Decoded)
    assert isinstance(same.val.pictures, Decoded)
    assert same.image_size == (9, 12)  # height and width
    assert same.train[0][0].size == (12, 9)

    root = make_folder(tmp_path / "mixed")
    Image.new("L", (20, 30), 5).save(root / "train" / "cat" / "0.png")
    mixed = open_data(str(root))
    assert isinstance(mixed.train.pictures, Files)
    assert isinstance(mixed.val.pictures, Decoded)
    assert mixed.image_size == (8, 8)  # the medians
    assert (mixed.mean, mixed.std) == ((0.5,), (0.5,))
    assert {mixed.all_train[index][0].size for index in range(20)} == {(8, 8), (20, 30)}


def test_kept_images_and_files_are_the_same_images(tmp_path):
    root = make_folder(tmp_path, mode="RGB")
    data = open_data(str(root))
    files = sorted((root / "train").rglob("*.png"))
    expected = {np.asarray(Image.open(path)).tobytes() for path in files}
    assert set(pixels_of(data.all_train)) == expected
    read = Files([str(path) for path in files], "RGB")
    assert {np.asarray(read[index]).tobytes() for index in range(len(read))} == expected


def test_statistics_of_kept_colour_images_are_by_channel(tmp_path):
    data = open_data(str(make_folder(tmp_path, mode="RGB")))
    images = data.train.union(data.verdict)
    pixels = np.stack([np.asarray(images[index][0]) for index in range(len(images))]) / 255
    assert data.mean == pytest.approx(tuple(pixels.mean(axis=(0, 1, 2))), abs=1e-4)
    red, green, blue = pixels.std(axis=(0, 1, 2))
    assert blue < 1e-6, "it is the same everywhere, and the deviation is divided by"
    assert data.std == pytest.approx((red, green, 1 / 255), abs=1e-4)


def one_class(root):
    make_folder(root, classes=("cat",), train=20)
    return ["at least two classes", "cat"]


def no_train(root):
    make_folder(root)
    (root / "train").rename(root / "elsewhere")
    return ["train/ and val/"]


def too_few_to_hold_out(root):
    make_folder(root, train=4)
    shutil.rmtree(root / "val")
    return ["too few images to hold 20% out", "needed are 10 in all"]


def other_sets_below(root):
    make_folder(root)
    shutil.copytree(root / "train" / "cat", root / "cat")
    shutil.rmtree(root / "val")
    (root / "train").rename(root / "elsewhere")
    return ["elsewhere/cat/0.png: lies too deep for an image of a class in "]


def unknown_class(root):
    make_folder(root)
    (root / "val" / "bird").mkdir()
    Image.new("L", (8, 8)).save(root / "val" / "bird" / "0.png")
    return ["val/ has classes that train/ has not: bird"]


def empty(part):
    def spoil(root):
        make_folder(root)
        for path in (root / part).rglob("*.png"):
            path.unlink()
        # A class without training images is no class; without any, nothing else can be said.
        for folder in (root / "val").iterdir():
            if part == "train":
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()
        return [f"no images in {part}/"]

    return spoil


def corrupt(part, damage):
    def spoil(root):
        make_folder(root)
        path = root / part / "dog" / "1.png"
        damage(path)
        return [f"{path}: not a readable image"]

    return spoil


def cut(path):
    # Only the pixels end here: the last 20 bytes hold checksums and the end mark.
    path.write_bytes(path.read_bytes()[:-24])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) - 26] ^= 0xFF
    path.write_bytes(content)


def replace_by_text(path):
    path.write_text("no image")


def replace_by_nothing(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "spoil",
    [
        one_class,
        no_train,
        too_few_to_hold_out,
        other_sets_below,
        unknown_class,
        empty("train"),
        empty("val"),
        corrupt("train", cut),
        corrupt("train", flip),
        corrupt("train", replace_by_text),
        corrupt("train", replace_by_nothing),
        corrupt("val", cut),
        corrupt("val", replace_by_text),
    ],
)
def test_an_unusable_folder_is_one_line_that_says_why(tmp_path, spoil):
    expected = spoil(tmp_path)
    with pytest.raises(InputError) as error:
        open_data(str(tmp_path))
    assert all(part in str(error.value) for part in expected)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("in_train", [True, False])
def test_without_validation_images_a_fifth_of_every_class_is_held_out(tmp_path, in_train):
    root = make_folder(tmp_path / "images", train=20)
    shutil.rmtree(root / "val")
    for path in sorted((root / "train/dog").iterdir())[10:]:
        path.unlink()
    files = {np.asarray(Image.open(path)).tobytes() for path in root.rglob("*.png")}
    if not in_train:
        for name in ("cat", "dog"):
            (root / "train" / name).rename(root / name)
        (root / "train").rmdir()
    data = open_data(str(root))
    assert data.val_is_held_out
    assert data.classes == ("cat", "dog")
    assert np.bincount(data.val.labels).tolist() == [4, 2]
    assert np.bincount(data.all_train.labels).tolist() == [16, 8]
    held_out, others = set(pixels_of(data.val)), set(pixels_of(data.all_train))
    assert held_out | others == files
    assert not held_out & others
    again = ImageData.open(str(root))
    assert pixels_of(again.val) == pixels_of(data.val)
    assert again.digest == data.digest
    assert pixels_of(again.reopen().val) == pixels_of(data.val)


@pytest.mark.parametrize(("cats", "dogs"), [(3, 3), (20, 1)])
def test_with_too_few_images_to_hold_any_out_a_network_can_be_trained_and_nothing_searched(tmp_path, cats, dogs):
    root = make_folder(tmp_path, train=20)
    for name, number in (("cat", cats), ("dog", dogs)):
        for path in sorted((root / "train" / name).iterdir())[number:]:
            path.unlink()
    data = open_data(str(root))
    assert np.bincount(data.all_train.labels).tolist() == np.bincount(data.train.labels).tolist() == [cats, dogs]
    assert (len(data.search), len(data.verdict)) == (0, 0)
    with pytest.raises(InputError, match=f"{tmp_path}': too few images to hold 10% out: .* the rarest with {dogs}"):
        data.check_search()
    network = {"embed_dim": 8, "groups": [1], "mlp_ratio": 2.0}
    arch = Architecture.from_dict(
        {"variant": "1d", "image_size": [8, 8], "in_chans": 1, "num_classes": 2, "patch_size": 4, "patch_stride": 4}
        | {"head_dim": 4, "stages": [network], "pools": []}
    )
    brief = {"epochs": 1, "warmup_epochs": 0}
    trained = psvit.retrain_network(arch, data, settings=brief, out=tmp_path / "run", device="cpu")
    assert trained.about.score["images"] == len(data.val)


def test_a_class_without_validation_images_is_no_error(tmp_path):
    root = make_folder(tmp_path)
    for path in (root / "val" / "cat").iterdir():
        path.unlink()
    assert open_data(str(root)).val.labels.tolist() == [1, 1]


@pytest.mark.parametrize("format", ["png", "jpeg"])
@pytest.mark.parametrize("part", ["train", "val"])
def test_images_that_stay_in_their_files_are_read_through_at_once(tmp_path, part, format):
    root = make_folder(tmp_path)
    for folder in ("train", "val"):
        # Of another size than the rest, so that nothing is kept.
        Image.new("L", (40, 30), 5).save(root / folder / "cat" / "0.png")
    path = root / part / "dog" / f"broken.{format}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    assert isinstance(open_data(str(root)).val.pictures, Files)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=rf"broken\.{format}: not a readable image"):
        open_data(str(root))


def test_in_large_folders_a_corrupt_image_is_named_when_it_is_met(tmp_path, monkeypatch):
    monkeypatch.setattr(images_module, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(sources, "CHECKED_LIMIT", 1)
    root = make_folder(tmp_path)
    cut(root / "val" / "dog" / "1.png")
    data = open_data(str(root))
    with pytest.raises(InputError, match=r"1\.png: not a readable image"):
        pixels_of(data.val)


@pytest.mark.parametrize("name", ["mnist", "no/such/folder", "wds/imagenet"])
def test_an_unknown_name_is_answered_with_the_permitted_forms(name):
    with pytest.raises(InputError) as error:
        open_data(name)
    assert repr(name) in str(error.value)
    for form in ("train/ and val/", "'digits'", "'torch/cifar10'"):
        assert form in str(error.value)


def test_a_data_set_that_its_library_does_not_know_is_an_input_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"data 'torch/no_such_set': cannot be opened") as error:
        open_data("torch/no_such_set")
    assert "\n" not in str(error.value)


# --- batches


def noise(n=10, size=(8, 8), colour=False):
    shape = (n, *size, 3) if colour else (n, *size)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return Labelled(Decoded(pixels), np.arange(n) % 3)


GREY = Inputs(image_size=(8, 8), in_chans=1, mean=(0.4,), std=(0.3,))
COLOUR = Inputs(image_size=(8, 8), in_chans=3, mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3))


@pytest.mark.parametrize(("inputs", "colour"), [(GREY, False), (COLOUR, True)])
def test_batches_are_normalised_images_in_order(inputs, colour):
    images = noise(colour=colour)
    batches = list(Batches(images, inputs, 4, CPU))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    pixels = torch.tensor(images.pictures.pixels).reshape(10, 8, 8, -1).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (inputs.mean, inputs.std))
    torch.testing.assert_close(torch.cat([batch for batch, _ in batches]), (pixels - mean) / std)
    assert torch.cat([labels for _, labels in batches]).tolist() == images.labels.tolist()


def test_batches_are_the_same_every_time():
    batches = Batches(noise(), GREY, 4, CPU)
    first = list(batches)
    with seeded(1):
        second = list(batches)
        fresh = list(Batches(noise(), GREY, 4, CPU))
    for one, other in ((first, second), (first, fresh)):
        for (images, labels), (others, other_labels) in zip(one, other, strict=True):
            assert torch.equal(images, others)
            assert torch.equal(labels, other_labels)


def test_batches_in_a_random_order_hold_the_same_images_and_depend_on_the_seed_alone():
    def rows(**order):
        batches = Batches(noise(), GREY, 4, CPU, **order)
        assert batches.is_shuffled == bool(order)
        return torch.cat([images.flatten(1) for images, _ in batches]), torch.cat([labels for _, labels in batches])

    (plain, labels), (one, one_labels), (same, _), (other, _) = (
        rows(), rows(order_seed=1), rows(order_seed=1), rows(order_seed=2)
    )  # fmt: skip
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    places = [int((plain == image).all(dim=1).nonzero()) for image in one]
    assert sorted(places) == list(range(10)) != places
    assert torch.equal(labels[places], one_labels)


def test_batches_that_do_not_fit_in_memory_are_the_same_too(monkeypatch):
    kept = list(Batches(noise(), GREY, 4, CPU))
    monkeypatch.setattr(batches_module, "MEMORY_LIMIT", 0)
    passing = Batches(noise(), GREY, 4, CPU)
    for _ in range(2):
        for (images, labels), (others, other_labels) in zip(kept, passing, strict=True):
            assert torch.equal(images, others)
            assert torch.equal(labels, other_labels)


def test_images_are_resized_to_what_the_network_takes():
    inputs = Inputs(image_size=(16, 12), in_chans=1, mean=(0.0,), std=(1.0,))
    grey = Labelled(Decoded(np.full((3, 9, 9), 51, dtype=np.uint8)), np.zeros(3, dtype=np.int64))
    (images, _) = next(iter(Batches(grey, inputs, 3, CPU)))
    assert images.shape == (3, 1, 16, 12)
    torch.testing.assert_close(images, torch.full_like(images, 0.2))


def test_accuracy_counts_the_highest_logits():
    images = noise()
    wrong = {1, 4, 7}
    logits = torch.full((10, 3), -5.0)
    for index, label in enumerate(images.labels):
        logits[index, (label + 1) % 3 if index in wrong else label] = 5.0
    position = iter(range(0, 12, 4))

    def answer(batch):
        start = next(position)
        return logits[start : start + len(batch)]

    assert accuracy(answer, Batches(images, GREY, 4, CPU)) == 70.0


def test_inputs_follow_the_data(digits):
    inputs = Inputs.of(digits, (8, 8))
    assert (inputs.in_chans, inputs.mean, inputs.std) == (1, digits.mean, digits.std)
    assert inputs.workers == 0  # so small that other processes would only cost time
    assert Inputs.of(digits, (32, 32)).workers > 0


# --- training batches

RECIPE = Recipe(epochs=1, batch_size=4, lr=0.1, crop_scale=(0.5, 1.0), hflip=0.5)


def epoch(loader, seed):
    return [(images.clone(), labels.clone()) for images, labels in loader.batches(seed, 0)]


@pytest.mark.parametrize(("inputs", "colour"), [(GREY, False), (COLOUR, True)])
def test_training_batches_are_whole_shuffled_and_repeatable(inputs, colour):
    recipe = RECIPE.override({"auto_augment": "rand-m9-mstd0.5-inc1", "random_erasing": 0.5, "color_jitter": 0.3})
    loader = training_loader(noise(30, colour=colour), inputs, recipe)
    first = epoch(loader, 0)
    assert len(first) == loader.steps == 7  # the last, incomplete one is left out
    for images, labels in first:
        assert images.shape == (4, inputs.in_chans, 8, 8)
        assert images.dtype == torch.float32
        assert labels.shape == (4,)
    for (images, labels), (others, other_labels) in zip(first, epoch(loader, 0), strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)
    order = [label for _, labels in first for label in labels.tolist()]
    assert order != [label for _, labels in epoch(loader, 1) for label in labels.tolist()]


def test_without_augmentation_training_images_are_the_images():
    images = noise(12)
    recipe = Recipe(epochs=1, batch_size=4, lr=0.1, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    batches = epoch(training_loader(images, GREY, recipe), 0)
    found = torch.cat([batch for batch, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    expected = (torch.tensor(images.pictures.pixels)[:, None] / 255 - 0.4) / 0.3
    # In some order every image once, with its own label.
    distance = (found[:, None] - expected[None]).abs().amax(dim=(2, 3, 4))
    assert distance.min(dim=1).values.max() < 1e-5
    rows = distance.argmin(dim=1)
    assert sorted(rows.tolist()) == list(range(12))
    assert rows.tolist() != list(range(12))
    assert labels.tolist() == images.labels[rows].tolist()


def test_a_set_smaller_than_a_batch_is_one_even_batch():
    (batch,) = epoch(training_loader(noise(7), GREY, RECIPE.override({"batch_size": 64})), 0)
    assert len(batch[0]) == 6


def test_a_loader_leaves_the_images_as_they_were():
    images = noise()
    training_loader(images, GREY, RECIPE)
    assert images.transform is None
    assert isinstance(images[0][0], Image.Image)


def test_an_unknown_augmentation_is_an_input_error():
    # Where it is found out does not matter, as long as it is before training.
    with pytest.raises(InputError, match="no-such-policy"):
        training_loader(noise(), GREY, RECIPE.override({"auto_augment": "no-such-policy"}))


# --- data sets of a user's own


class Own(torch.utils.data.Dataset):
    """Pairs of image and class, made by a function each time they are asked for."""

    def __init__(self, arrays, labels, make=Image.fromarray):
        self.arrays, self.labels, self.make = arrays, labels, make

    def __len__(self):
        return len(self.arrays)

    def __getitem__(self, index):
        return self.make(self.arrays[index]), self.labels[index]


RGB = np.random.default_rng(3).integers(0, 256, (30, 6, 9, 3), dtype=np.uint8)
GREYS = RGB[..., 0]
LABELS = [index % 3 for index in range(30)]


def of_own(arrays, make=Image.fromarray, labels=LABELS, **options):
    return ImageData.from_datasets(Own(arrays, labels, make), Own(arrays[:6], labels[:6], make), **options)


@pytest.mark.parametrize(
    ("arrays", "make"),
    [
        (RGB, Image.fromarray),
        (RGB, lambda array: array),
        (RGB, lambda array: torch.from_numpy(array).permute(2, 0, 1)),
        (GREYS, Image.fromarray),
        (GREYS, lambda array: array),
        (GREYS, lambda array: array[..., None]),
        (GREYS, torch.from_numpy),
        (GREYS, lambda array: torch.from_numpy(array)[None]),
        (GREYS, lambda array: array.astype(np.uint16) << 8),
    ],
)
def test_images_of_every_permitted_form_are_those_pixels(arrays, make):
    data = of_own(arrays, make)
    assert data.in_chans == (3 if arrays is RGB else 1)
    assert (data.image_size, data.classes, data.name) == (arrays.shape[1:3], ("0", "1", "2"), "datasets")
    assert np.array_equal(data.all_train.pictures.pixels, arrays)
    assert data.all_train.labels.tolist() == LABELS
    assert np.array_equal(data.val.pictures.pixels, arrays[:6])
    first, second = stratified_split(np.array(LABELS), 0.1, 0)
    assert data.search.rows.tolist() == second.tolist()
    assert data.without_verdict().train.rows.tolist() == first.tolist()
    assert len(data.without_verdict().verdict) == 0


@pytest.mark.parametrize("kept", [True, False])
def test_without_a_second_data_set_a_fifth_of_the_first_is_held_out(monkeypatch, kept):
    if not kept:
        monkeypatch.setattr(images_module, "MEMORY_LIMIT", 0)
    data = ImageData.from_datasets(Own(GREYS, LABELS))
    assert data.val_is_held_out
    rows, held_out = stratified_split(np.array(LABELS), 0.2, 0)
    for part, expected in ((data.all_train, rows), (data.val, held_out)):
        assert part.labels.tolist() == np.array(LABELS)[expected].tolist()
        assert pixels_of(part) == [GREYS[row].tobytes() for row in expected]
    assert data.digest == ImageData.from_datasets(Own(GREYS, LABELS)).digest
    assert not of_own(GREYS).val_is_held_out


def test_too_few_images_for_a_verdict_have_none():
    labels = np.repeat([0, 1], 10)
    train, search, verdict = parts(labels)
    assert (len(train), len(search), len(verdict)) == (16, 2, 2)
    # The only images of a class that are left cannot be cut again.
    labels = np.repeat(range(5), [20, 20, 20, 20, 2])
    train, search, verdict = parts(labels)
    assert len(verdict) == 0
    assert sorted([*train, *search]) == list(range(82))


def test_the_digest_is_of_pixels_and_labels():
    digest = of_own(RGB).digest
    assert of_own(RGB.copy(), lambda array: array).digest == digest
    assert of_own(255 - RGB).digest != digest
    assert of_own(RGB, labels=LABELS[::-1]).digest != digest
    assert of_own(RGB, classes=["a", "b", "c"]).digest != digest


def test_a_data_set_of_torchvisions_is_taken_as_it_is(tmp_path):
    from torchvision.datasets import ImageFolder

    make_folder(tmp_path, mode="RGB")
    own = ImageData.from_datasets(ImageFolder(str(tmp_path / "train")), ImageFolder(str(tmp_path / "val")))
    folder = open_data(str(tmp_path))
    assert own.classes == folder.classes == ("cat", "dog")
    assert pixels_of(own.train) == pixels_of(folder.train)
    assert pixels_of(own.val) == pixels_of(folder.val)
    assert (own.mean, own.std) == (folder.mean, folder.std)


def test_labels_are_not_read_from_images_where_a_data_set_says_them(monkeypatch):
    monkeypatch.setattr(images_module, "MEMORY_LIMIT", 0)
    asked = []

    class Says(Own):
        targets = LABELS

        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    many = np.repeat(GREYS, 10, axis=0)
    train = Says(many, LABELS * 10)
    train.targets = LABELS * 10
    data = ImageData.from_datasets(train, Own(GREYS[:6], LABELS[:6]))
    assert len(set(asked)) < len(train)
    assert data.all_train.labels.tolist() == LABELS * 10
    assert np.array_equal(np.asarray(data.all_train[7][0]), many[7])


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("make", "labels", "options", "message"),
    [
        (
            lambda array: torch.from_numpy(array) / 255,
            LABELS,
            {},
            "received Tensor of float32, (6, 9, 3); leave",
        ),
        (lambda array: array.astype(np.int32), LABELS, {}, "received ndarray of int32, (6, 9, 3)"),
        (lambda array: "cat.png", LABELS, {}, "train, image 0: must be an image of Pillow's, an array"),
        (Image.fromarray, [0.5] * 30, {}, "train: must yield pairs of an image and its class as a whole number"),
        (Image.fromarray, ["cat"] * 30, {}, "must yield pairs of an image and its class as a whole number"),
        (Image.fromarray, LABELS, {"classes": ["a", "b"]}, "labels must be 0 to 1 for 2 classes, found 0 to 2"),
        (Image.fromarray, [label - 1 for label in LABELS], {}, "found -1 to 1"),
        (Image.fromarray, [0] * 30, {}, "at least two classes are needed, found 1"),
    ],
)
def test_what_cannot_be_used_of_a_data_set_is_named(make, labels, options, message):
    with pytest.raises(InputError) as error:
        of_own(RGB, make, labels=labels, name="mine", **options)
    assert str(error.value).startswith("data 'mine'")
    assert message in str(error.value)


@pytest.mark.parametrize("dataset", [Endless(), Own(RGB[:0], []), iter([1])])
def test_a_data_set_without_a_length_or_images_is_refused(dataset):
    with pytest.raises(InputError, match="validation: must be a data set with a length that can be indexed, not empty"):
        ImageData.from_datasets(Own(RGB, LABELS), dataset)


def test_images_are_called_and_known_the_same_however_their_folder_is_named(tmp_path, monkeypatch):
    data = open_data(str(make_folder(tmp_path / "images")))
    monkeypatch.chdir(tmp_path / "images")
    here = ImageData.find(".")
    monkeypatch.chdir(tmp_path)
    named = [ImageData.find(name) for name in ("images", "images/", "./images")]
    assert {one.name for one in named} == {"images"}
    assert {one.digest for one in (here, *named)} == {data.digest}


@pytest.mark.parametrize("colour", [False, True])
def test_statistics_are_counted_in_parts(tmp_path, monkeypatch, colour):
    folder = str(make_folder(tmp_path, mode="RGB" if colour else "L"))
    whole = open_data(folder)
    expected = whole.mean, whole.std
    monkeypatch.setattr("psvit.data.image_data.COUNTED", 8 * 8 * 3 * 2)
    again = open_data(folder)
    assert (again.mean, again.std) == expected


def test_an_image_set_knows_which_networks_are_for_it(digits):
    arch = SearchSpace.load("psvit-2d-digits")[0]

    def known(classes, arch=arch):
        return ArchitectureFile(arch=arch, provenance={"data": {"classes": classes}})

    names = list(digits.classes)
    assert digits.fits(known(names))
    assert digits.fits(ArchitectureFile(arch=arch)), "their number is all that is known"
    assert not digits.fits(known(names[::-1]))
    assert not digits.fits(known(list("abcdefghij")))
    assert not digits.fits(known(names, arch.model_copy(update={"in_chans": 3})))
