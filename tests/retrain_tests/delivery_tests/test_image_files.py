"""Which files paths of images and folders stand for."""

from __future__ import annotations

from psvit.retrain.delivery.image_files import image_files


def test_files_are_taken_as_they_are_and_folders_without_what_is_hidden(tmp_path):
    for name in ("b.PNG", "a/1.jpg", "a/._1.jpg", ".thumbnails/b.png", "notes.txt", ".named.png"):
        path = tmp_path / ".cache" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    folder = tmp_path / ".cache"
    hidden, notes = folder / ".named.png", folder / "notes.txt"
    assert image_files([hidden, folder, notes]) == [hidden, folder / "a/1.jpg", folder / "b.PNG", notes]
