"""Which files paths of images and folders stand for."""

from __future__ import annotations

import os

import pytest

from psvit.errors import InputError
from psvit.retrain.delivery.image_files import image_files


def test_files_are_taken_as_they_are_and_folders_without_what_is_hidden(tmp_path):
    for name in ("b.PNG", "a/1.jpg", "a/._1.jpg", ".thumbnails/b.png", "notes.txt", ".named.png"):
        path = tmp_path / ".cache" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    folder = tmp_path / ".cache"
    hidden, notes = folder / ".named.png", folder / "notes.txt"
    assert image_files([hidden, folder, notes]) == [hidden, folder / "a/1.jpg", folder / "b.PNG", notes]


def test_links_to_folders_are_followed_and_none_of_their_images_is_taken_twice(tmp_path):
    real, shown = tmp_path / "real", tmp_path / "shown"
    (real / "deep").mkdir(parents=True)
    (real / "deep/1.png").touch()
    shown.mkdir()
    (shown / "linked").symlink_to(real)
    (real / "again").symlink_to(real)
    (shown / "lost.png").symlink_to("nowhere")
    (shown / "loop.png").symlink_to("loop.png")
    assert image_files([shown]) == [shown / "linked/deep/1.png"]


def test_what_cannot_be_looked_into_is_named(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").touch()
    scan = os.scandir

    def refuse(place):
        if os.path.basename(place) == "a":
            raise PermissionError(13, "Permission denied", place)
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"/a: cannot be read: Permission denied"):
        image_files([tmp_path])
