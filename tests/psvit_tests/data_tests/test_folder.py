"""Which files of a folder are its images."""

from __future__ import annotations

import os
import sys

import pytest
from timm.data.readers.reader_image_folder import find_images_and_targets

from psvit.data.folder import images_in, parts_of
from psvit.data.pixels import ENDINGS
from psvit.errors import InputError


@pytest.fixture
def root(tmp_path):
    """Files in folders, nested ones and empty ones among them; nobody looks into the files."""
    for name in (
        *("cat/10.png", "cat/9.PNG", "cat/a.jpeg", "dog/1.png", "dog/deeper/wolf/2.tiff", "dog/deeper/3.webp"),
        *("dog/notes.txt", "fish/README"),
    ):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "train"


def names(images):
    return [os.path.basename(image.path) for image in images]


@pytest.mark.parametrize("classes", [None, ("wolf", "cat")])
def test_images_and_classes_are_timms(root, classes):
    numbers = None if classes is None else {name: place for place, name in enumerate(classes)}
    expected, numbers = find_images_and_targets(str(root), types=ENDINGS, class_to_idx=numbers)
    images, found = images_in(root, classes)
    assert found == tuple(numbers)
    assert [(image.path, image.label) for image in images] == expected
    assert all(image.size == os.path.getsize(image.path) for image in images)


def test_hidden_files_and_folders_are_left_out(root):
    before = images_in(root)
    place(root, ".ipynb_checkpoints/4.png", "cat/._9.PNG", "dog/.thumbnails/1.png", "__MACOSX/cat/._a.jpeg", ".5.png")
    assert images_in(root) == before
    assert parts_of(root.parent) == (root, None)


def test_a_folder_may_lie_in_a_hidden_one(tmp_path):
    root = place(tmp_path / ".cache", "cat/0.png", "dog/1.png")
    assert parts_of(root) == (root, None)
    assert len(images_in(root)[0]) == 2


def test_numbers_are_in_their_natural_order(root):
    assert names(images_in(root, ("cat",))[0]) == ["9.PNG", "10.png", "a.jpeg"]


def test_links_are_followed_but_not_round_and_round(root, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "5.png").write_bytes(b"five")
    before = len(images_in(root)[0])
    (root / "bird").symlink_to(elsewhere)
    (root / "cat/whole").symlink_to(root)
    (root / "cat/self").symlink_to(root / "cat")
    (root / "dog/deeper/wolf/up").symlink_to(root / "dog")
    images, classes = images_in(root)
    assert "bird" in classes
    assert len(images) == before + 1


def test_folders_that_name_each_other_end(tmp_path):
    for one in range(8):
        (tmp_path / f"{one}").mkdir()
        for other in range(8):
            (tmp_path / f"{one}/{other}").symlink_to(tmp_path / f"{other}")
    (tmp_path / "3/a.png").write_bytes(b"a")
    images, classes = images_in(tmp_path)
    assert (len(images), classes) == (1, ("3",))


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_file_in_two_classes_is_named(root, link):
    link(root / "cat/9.PNG", root / "dog/7.png")
    with pytest.raises(InputError, match=r"7\.png: is the same file as .*, so it would be in the classes cat and dog"):
        images_in(root)


def test_a_file_twice_in_a_class_counts_once(root):
    (root / "cat/again.png").symlink_to(root / "cat/9.PNG")
    assert len(images_in(root, ("cat",))[0]) == 3


def test_a_pipe_is_named_and_not_waited_for(root):
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes in folders here")
    os.mkfifo(root / "cat/pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png: must be a regular file"):
        images_in(root)


def test_a_link_to_nowhere_is_named(root):
    (root / "cat/gone.png").symlink_to(root / "nowhere.png")
    with pytest.raises(InputError, match=r"gone\.png"):
        images_in(root)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there alone")
def test_a_name_that_is_no_text_is_shown(root):
    with open(os.fsencode(root) + b"/cat/\xff.png", "wb"):
        pass
    with pytest.raises(InputError, match=r"cat/\\xff\.png: has a name that is no UTF-8") as error:
        images_in(root)
    str(error.value).encode()


def test_an_image_that_lies_in_no_class_is_named(root):
    (root / "cover.png").write_bytes(b"cover")
    with pytest.raises(InputError, match=r"cover\.png: lies in no folder of a class"):
        images_in(root)


# --- parts


def place(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


@pytest.mark.parametrize(
    ("files", "train", "val"),
    [
        (("train/cat/0.png", "val/cat/0.png"), "train", "val"),
        (("train/cat/0.png", "valid/cat/0.png", "test/cat/0.png"), "train", "valid"),
        (("train/animals/cat/0.png", "validation/cat/0.png"), "train", "validation"),
        (("train/cat/0.png", "test/cat/0.png"), "train", None),
        (("cat/0.png", "dog/1.JPG", "notes.txt"), "", None),
        (("cat/0.png", "train/1.png", "valid/2.png"), "", None),  # a class may be called like a part
        (("train/train/0.png", "train/car/1.png", "val/car/2.png"), "train", "val"),
    ],
)
def test_the_parts_of_a_folder_are_found(tmp_path, files, train, val):
    found = parts_of(place(tmp_path / "images", *files))
    assert found == (tmp_path / "images" / train, tmp_path / "images" / val if val else None)


@pytest.mark.parametrize(
    ("files", "folder", "expected"),
    [
        (("train/cat/0.png", "val/cat/0.png"), "train", "did you mean '{}'"),
        (("train/cat/0.png", "validation/cat/0.png"), "validation", "did you mean '{}'"),
        (("train/cat/0.png", "train/dog/0.png"), "train", "did you mean '{}'"),
        (("val/cat/0.png",), ".", "expected a folder of images for every class, in it or in train/ and val/ in it"),
        (("some/train/cat/0.png", "other/cat/0.png"), ".", "expected a folder of images for every class"),
        (("cover.png",), ".", "expected a folder of images for every class"),
        (("train/cat/0.png", "val/cat/0.png", "valid/cat/0.png"), ".", "val/ and valid/; keep one"),
    ],
)
def test_a_folder_without_such_parts_is_told_what_was_expected(tmp_path, files, folder, expected):
    root = place(tmp_path / "images", *files)
    with pytest.raises(InputError) as error:
        parts_of(root / folder)
    assert str(root / folder) in str(error.value)
    assert expected.format(root) in str(error.value)


def test_names_may_have_digits_that_are_no_numbers(root):
    for name in ("①", "10²", "2", "٣"):
        (root / name).mkdir()
        (root / name / "1.png").touch()
    _, found = images_in(root)
    assert {*found} == {"①", "10²", "2", "٣", "cat", "dog", "deeper", "wolf"}
    assert found.index("2") < found.index("٣") < found.index("10²")


def test_a_link_to_itself_is_no_folder_and_hides_none(root):
    before = images_in(root)
    (root / "cat" / "loop").symlink_to("loop")
    (root / "loop").symlink_to("loop")
    assert images_in(root) == before
    assert parts_of(root.parent) == (root, None)


def test_validation_images_without_classes_are_refused(root):
    (root.parent / "val").mkdir()
    (root.parent / "val/1.png").touch()
    with pytest.raises(InputError, match=r"images in val/ lie in no folders of classes"):
        parts_of(root.parent)
