"""What of the repository outside `docs/` is in the site.

`CONTRIBUTING.md` and `CHANGELOG.md` are pages. A file or folder that a page links to, such as an example, is shown on
a page of its own, below `repository/`. So links that work on the repository's web view work in the site as well.

The reference is made from the sources, in which the folders of the top level are put together to one package.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).resolve().parents[1]

OF_THE_ROOT = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the root, and what they are called in the site."""

HOME = {"README.md": "index.md", "docs": "index.md"}
"""What the home page stands for."""

LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)((?:#[^)\s]*)?)\)")

FETCHED = re.compile(r"""<(script|link|img|iframe)\b[^>]*(src|href)=["']?(https?:)?//[^>]*>""")

LANGUAGES = {".py": "python", ".yaml": "yaml", ".md": "markdown"}


@event_priority(100)  # before the plugin that reads where the package is
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the package together, as `setup.cfg` maps it, where the reference is made from."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    config.extra["whole"] = whole = tempfile.TemporaryDirectory(prefix="psvit-site-")  # as long as the configuration
    for line in setup["options"]["package_dir"].strip().splitlines():
        package, folder = (part.strip() for part in line.split("="))
        place = Path(whole.name, *package.split("."))
        shutil.copytree(ROOT / folder, place, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [whole.name]
    return config


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """The script that searches pages which are opened as files comes from here, as all else does."""
    here = get_relative_url("javascripts/iframe-worker.js", page.url)
    output = output.replace("https://unpkg.com/iframe-worker/shim", here)
    if fetched := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri}: would fetch from elsewhere: {fetched[0]}")
    return output


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """The same on the page that says that there is none."""
    return output_content.replace("https://unpkg.com/iframe-worker/shim", "javascripts/iframe-worker.js")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, and what any page links to."""
    pages = {ROOT / name: place for name, place in OF_THE_ROOT.items()}
    for path, place in pages.items():
        files.append(File.generated(config, place, content=path.read_text()))
    linked: set[Path] = set()
    for path in [*pages, *(ROOT / "docs").glob("*.md")]:
        linked |= {found for target, _ in LINK.findall(path.read_text()) if (found := _shown(path, target))}
    for folder in [found for found in linked if found.is_dir()]:
        linked |= set(_content(folder))
    for path in linked:
        page = File.generated(config, _place(path), content=_as_page(path), inclusion=InclusionLevel.NOT_IN_NAV)
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links lead where they lead on the web view of the repository."""
    names = {place: name for name, place in OF_THE_ROOT.items()}
    place = page.file.src_uri
    path = ROOT / names[place] if place in names else ROOT / "docs" / place

    def follow(link: re.Match[str]) -> str:
        found = Path(os.path.normpath(path.parent / link[1]))
        name = found.relative_to(ROOT).as_posix() if found.is_relative_to(ROOT) else ""
        if name in HOME or name in OF_THE_ROOT:
            target = {**HOME, **OF_THE_ROOT}[name]
        elif name.startswith("docs/"):
            target = name.removeprefix("docs/")
        elif _shown(path, link[1]):
            target = _place(found)
        else:
            return link[0]
        return f"]({target}{link[2]})"

    return LINK.sub(follow, markdown) if not place.startswith("repository/") else markdown


def _shown(page: Path, target: str) -> Path | None:
    """The file or folder outside `docs/` that a page links to; `None` if it links to something else."""
    found = Path(os.path.normpath(page.parent / target))
    is_page = found in {ROOT / name for name in (*OF_THE_ROOT, *HOME)} or found.is_relative_to(ROOT / "docs")
    return found if found.is_relative_to(ROOT) and found.exists() and not is_page else None


def _place(path: Path) -> str:
    """Where a file or folder of the repository is shown in the site."""
    return f"repository/{path.relative_to(ROOT).as_posix()}.md"


def _content(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (*LANGUAGES, ".ipynb"))


def _as_page(path: Path) -> str:
    """A file as text, a notebook as its cells, a folder as a list."""
    title = path.relative_to(ROOT).as_posix()
    if path.is_dir():
        body = "\n".join(f"- [{found.name}]({path.name}/{found.name}.md)" for found in _content(path))
    elif path.suffix == ".ipynb":
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(path.read_text())["cells"]]
        body = "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in cells)
    else:
        body = f"````{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text().rstrip()}\n````"
    heading = "" if path.suffix == ".ipynb" else f"# {title}\n\n"
    return f"---\ntitle: {title}\nsearch: {{exclude: true}}\n---\n\n{heading}{body}\n"
