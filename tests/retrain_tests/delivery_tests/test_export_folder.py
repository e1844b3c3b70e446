"""An export replaces the files that exports wrote, all of them or none, and no other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray import cloudpickle

from psvit.arch.architecture import Architecture, Stage
from psvit.data.preprocessing import Preprocessing
from psvit.errors import InputError
from psvit.io.locks import LOCK_FILE
from psvit.retrain.delivery.card import kind_of
from psvit.retrain.delivery.folder import replacing_export

# Processes cannot import the tests, so functions travel by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

PREPROCESSING = Preprocessing(image_size=(8, 8), in_chans=1, mean=(0.5,), std=(0.5,), classes=("cat", "dog"))

OLD = {"README.md": "old card", "network.onnx": "old network", "shard": "old shard"}
NEW = {"README.md": "new card", "network.onnx": "new network", "network.svg": "new picture"}


def write(out, files, form="onnx"):
    with replacing_export(out, form, files) as place:
        for name, content in files.items():
            (place / name).write_text(content)


def contents(folder):
    """Every file below a folder with what is in it."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def without_manifest(folder):
    return {name: content for name, content in contents(folder).items() if name != "export.yaml"}


@pytest.fixture
def out(tmp_path):
    """An export, and a file of the user's."""
    write(tmp_path / "out", OLD)
    (tmp_path / "out/notes.txt").write_text("mine")
    return tmp_path / "out"


def test_the_manifest_names_what_was_written(out):
    manifest = {"schema": "psvit/export/1", "format": "onnx", "files": sorted(OLD)}
    assert yaml.safe_load((out / "export.yaml").read_text()) == manifest
    write(out, NEW)
    assert yaml.safe_load((out / "export.yaml").read_text()) == {**manifest, "files": sorted(NEW)}


def test_files_of_the_earlier_export_are_replaced_or_go_and_others_stay(out):
    (out / "network.onnx").unlink()
    write(out, NEW)
    assert without_manifest(out) == {**NEW, "notes.txt": "mine"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_an_export_writes_private_can_be_read_like_everything_else(tmp_path):
    with replacing_export(tmp_path / "out", "onnx", ["private"]) as place:
        (place / "private").touch(0o600)
    (tmp_path / "plain").touch()
    assert (tmp_path / "out/private").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "out/export.yaml").stat().st_mode == (tmp_path / "plain").stat().st_mode


def refused(out, files, message, form="onnx"):
    """Make sure that an export is refused in one line before anything is written."""
    before = contents(out)
    with pytest.raises(InputError, match=message) as error, replacing_export(out, form, files):
        pytest.fail("lent")
    assert len(str(error.value).splitlines()) == 1
    assert contents(out) == before


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_a_user_put_where_an_export_would_write_is_not_replaced(out, kind):
    place = out / "network.svg"
    if kind == "link":
        place.symlink_to("notes.txt")
    elif kind == "folder":
        place.mkdir()
    else:
        place.write_text("mine")
    refused(
        out, NEW, r"^--out .*out: network\.svg would be written there, and what has that name is of no export; move"
    )
    assert os_kind(place) == kind


def os_kind(path):
    return "link" if path.is_symlink() else "folder" if path.is_dir() else "file"


def test_what_a_user_put_there_while_the_export_was_written_is_not_replaced_either(out):
    def export():
        with replacing_export(out, "onnx", NEW) as place:
            for name, content in NEW.items():
                (place / name).write_text(content)
            (out / "network.svg").write_text("mine")

    before = contents(out)
    with pytest.raises(InputError, match=r"network\.svg would be written there"):
        export()
    assert contents(out) == {**before, "network.svg": "mine"}


def test_a_folder_in_the_place_of_an_exported_file_is_not_replaced(out):
    (out / "README.md").unlink()
    (out / "README.md").mkdir()
    refused(out, NEW, r"README\.md would be written there")
    assert (out / "README.md").is_dir()


@pytest.mark.parametrize(
    "name", ["../thesis.tex", "/thesis.tex", "a/b", "a\\b", "C:thesis.tex", "..", ".", "", "export.yaml", "a\0b"]
)
def test_a_manifest_that_names_files_elsewhere_is_refused(out, name):
    (out.parent / "thesis.tex").write_text("precious")
    manifest = yaml.safe_load((out / "export.yaml").read_text())
    (out / "export.yaml").write_text(yaml.safe_dump({**manifest, "files": [*manifest["files"], name]}))
    refused(out, NEW, r"export\.yaml: files: .* is not the name of a file in this folder; export to a new folder")
    assert (out.parent / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize(
    "content", ["", "files: [README.md]\n", "schema: psvit/export/1\nformat: onnx\nfiles: README.md\n", "[]"]
)
def test_what_is_no_manifest_is_refused(out, content):
    (out / "export.yaml").write_text(content)
    refused(out, NEW, r"export\.yaml: ")


def test_an_export_in_another_form_is_refused(out):
    refused(out, NEW, "holds a network exported --to onnx; name another folder for --to timm", form="timm")


def test_a_folder_without_an_export_is_refused_and_an_empty_one_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    refused(tmp_path / "out", NEW, "exists and holds no exported network; name a new folder")
    (tmp_path / "out/notes.txt").unlink()
    write(tmp_path / "out", NEW)
    assert without_manifest(tmp_path / "out") == NEW


@pytest.mark.parametrize("target", ["missing", "file"])
def test_a_link_that_leads_to_no_folder_is_refused(tmp_path, target):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "out").symlink_to(target)
    with (
        pytest.raises(InputError, match=r"--out .*out: is a file, or a link that leads nowhere; name a new folder"),
        replacing_export(tmp_path / "out", "onnx", NEW),
    ):
        pytest.fail("lent")
    assert (tmp_path / "out").readlink() == Path(target)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["file/below", "x" * 300])
def test_a_folder_that_cannot_be_is_named_in_one_line(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"^--out .*: cannot be written: "), replacing_export(tmp_path / name, "", NEW):
        pytest.fail("lent")
    assert contents(tmp_path) == {"file": "mine"}


# --- version 0.1, which left no manifest


@pytest.fixture
def old(tmp_path):
    """A folder as version 0.1 left it."""
    write(tmp_path / "out", {**NEW, "preprocessing.json": PREPROCESSING.to_json()})
    (tmp_path / "out/export.yaml").unlink()
    return tmp_path / "out"


def test_an_export_of_version_0_1_is_replaced_and_what_was_added_stays(old):
    (old / "notes.txt").write_text("mine")
    files = dict.fromkeys([*NEW, "preprocessing.json"], "newer")
    write(old, files)
    assert without_manifest(old) == {**files, "notes.txt": "mine"}


def test_an_export_of_version_0_1_in_another_form_is_refused(old):
    refused(old, NEW, "holds a network exported --to onnx; name another folder for --to timm", form="timm")


@pytest.mark.parametrize("damage", ["missing", "{}", "[1]", "\xff\xfe"])
def test_a_folder_that_only_looks_like_one_of_version_0_1_is_refused(old, damage):
    """That of another model, say, which has a `preprocessing.json` as well."""
    if damage == "missing":
        (old / "README.md").unlink()
    else:
        (old / "preprocessing.json").write_bytes(damage.encode("latin-1"))
    files = [*NEW, "preprocessing.json"]
    before = {path: path.read_bytes() for path in old.iterdir()}
    with (
        pytest.raises(InputError, match="exists and holds no exported network; name a new folder"),
        replacing_export(old, "onnx", files),
    ):
        pytest.fail("lent")
    assert {path: path.read_bytes() for path in old.iterdir()} == before


# --- what ends an export before it has


class Ended(BaseException):
    """Stands for Ctrl-C at any moment."""


def counting(monkeypatch, at, error):
    """Let the file system's calls that change something fail from one of them on; how many there were."""
    calls = []

    def wrapped(function):
        def call(self, *args, **kwargs):
            calls.append(self)
            if len(calls) == at + 1:
                raise error
            return function(self, *args, **kwargs)

        return call

    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, wrapped(getattr(Path, name)))
    return calls


@pytest.mark.parametrize("error", [Ended(), OSError(28, "No space left on device")], ids=["ended", "full"])
@pytest.mark.parametrize("is_new", [False, True], ids=["earlier", "new"])
def test_an_export_that_fails_anywhere_leaves_the_earlier_one_whole(out, tmp_path, monkeypatch, is_new, error):
    out = tmp_path / "new" if is_new else out
    before = contents(out)
    finished = 0
    for at in range(100):
        with monkeypatch.context() as context:
            calls = counting(context, at, error)
            try:
                write(out, NEW)
            except (Ended, InputError):
                pass
            else:
                finished = at
                break
        if "export.yaml" in contents(out) and yaml.safe_load((out / "export.yaml").read_text())["files"] == sorted(NEW):
            # What failed is the tidying up after the last file had taken its place.
            finished = at
            break
        assert contents(out) == before, at
        assert out.exists() != is_new
    assert finished > len(NEW)
    assert len(calls) > len(NEW)
    write(out, NEW)
    assert without_manifest(out) == {**NEW, **({} if is_new else {"notes.txt": "mine"})}


def export_and_die(files, places, said):
    """Exports to the first folder and is killed before the first change, then to the second and before the second one.

    And so on, until an export comes to its end; writes down how many were killed.
    """
    done = kill_at = 0

    def counted(function):
        # Dies before a call that changes something, as by a kill.
        def call(*args, **kwargs):
            nonlocal done
            if done == kill_at:
                os._exit(9)
            done += 1
            return function(*args, **kwargs)

        return call

    for name in ("replace", "unlink", "mkdir", "rmdir"):
        setattr(Path, name, counted(getattr(Path, name)))
    os.link = counted(os.link)
    for kill_at, out in enumerate(places):
        if not (child := os.fork()):
            done = 0
            write(out, files)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            said.write_text(str(kill_at))
            break


@pytest.mark.parametrize("is_new", [False, True], ids=["earlier", "new"])
def test_an_export_that_is_killed_anywhere_leaves_what_the_same_command_mends(make_process, tmp_path, is_new):
    mine = {} if is_new else {"notes.txt": "mine"}
    places = [tmp_path / str(number) for number in range(60)]
    if not is_new:
        for out in places:
            write(out, OLD)
            (out / "notes.txt").write_text("mine")
    exporting = make_process(export_and_die, NEW, places, tmp_path / "kills")
    exporting.start()
    exporting.join()
    kills = int((tmp_path / "kills").read_text())
    assert kills > 3 * len(NEW)
    assert without_manifest(places[kills]) == {**NEW, **mine}
    mixed = 0
    for out in places[:kills]:
        found = {path.name: path.read_text() for path in out.glob("[!.]*") if path.is_file()}
        named = yaml.safe_load(found.pop("export.yaml", "files: []"))["files"]
        assert mine.items() <= found.items()
        # The others are whole and known to be an export's, and none of the earlier one is missing.
        for name in found.keys() - mine:
            assert name in named
            assert found[name] in (OLD.get(name), NEW.get(name))
        if not is_new:
            assert {"README.md", "network.onnx"} <= found.keys()
            mixed += found["README.md"] == NEW["README.md"] and found["network.onnx"] == OLD["network.onnx"]
        write(out, NEW)
        assert contents(out) == contents(places[kills])
    assert mixed or is_new  # the hardest case was among them


def test_two_exports_to_one_folder_do_not_run_at_once(out):
    code = (
        "import sys; from psvit.io.locks import hold; from pathlib import Path;"
        f"lock = hold(Path({str(out / LOCK_FILE)!r})); print('in', flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "in\n"
        refused(out, NEW, "out: another process is at work in it; let it end, or name another folder")
        other.communicate("\n")
    write(out, OLD)
    assert without_manifest(out) == {**OLD, "notes.txt": "mine"}


@pytest.mark.parametrize(
    ("groups", "pools", "said"),
    [
        (((1, 1),), (), "A vision transformer: images"),
        (((2,),), (), "A vision transformer with shared attention maps: images"),
        (((1,), (1,)), ("max",), "A vision transformer with token pooling: images"),
        (((2,), (1,)), ("avg",), "A vision transformer with token pooling and shared attention maps: images"),
    ],
)
def test_the_card_says_only_what_the_network_has(groups, pools, said):
    stages = tuple(Stage(embed_dim=16, groups=sizes, mlp_ratio=2) for sizes in groups)
    fields = {"variant": "1d", "image_size": (8, 8), "in_chans": 1, "num_classes": 2, "patch_size": 2}
    arch = Architecture(**fields, patch_stride=2, head_dim=8, stages=stages, pools=pools)
    assert f"A vision transformer{kind_of(arch)}: images" == said
