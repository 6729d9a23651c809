"""The commands of `echolung fetch`: sets that only registered users may download, by their own signed URL."""

import os
import shutil
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import click

from echolung.core.errors import DataError, DiskError, listed
from echolung.core.runtime import atomic_directory, disk_error, read_json, write_json
from echolung.stage import project

VARIABLE = "ECHONET_DYNAMIC_URL"
RENEW = f"Ask for a new link at https://echonet.github.io/dynamic, put it into {VARIABLE} and call again."
AGAIN = "Call again: it goes on where it stopped."


@click.group()
def fetch() -> None:
    """Download a set that asks for registration, by your own signed URL."""


@fetch.command("echonet-dynamic")
def echonet_dynamic() -> None:
    """Download EchoNet-Dynamic to <public_sets>/echonet-dynamic, from the signed URL in ECHONET_DYNAMIC_URL.

    An interrupted download goes on where it stopped. The archive is checked, and unpacked as a whole or not at all.

    \b
    Example:
      ECHONET_DYNAMIC_URL='https://...' echolung fetch echonet-dynamic
    """
    root, settings = project()
    target = root / Path(settings.public_sets or "data/raw").expanduser() / "echonet-dynamic"
    if target.exists():
        raise DataError(f"{target} exists", "To download it again, move it away first.")
    url = os.environ.get(VARIABLE, "")
    if not url.startswith(("https://", "http://")):
        raise DataError(f"{VARIABLE} holds no URL", RENEW)
    archive = target.with_name("echonet-dynamic.zip.part")
    archive.parent.mkdir(parents=True, exist_ok=True)
    download(url, archive)
    click.echo(f"{unpack(archive, target)} videos in {target}.")


def download(url: str, file: Path) -> None:
    """Bring `file` to the end of what `url` holds; as long as each attempt brings something, there is another.

    What is there already is only kept if the server still has the same content (by its ETag).
    """
    note = file.with_suffix(".json")
    while True:
        known, have = read_json(note) if note.is_file() else {}, file.stat().st_size if file.is_file() else 0
        if have and have == known.get("size"):
            return
        ranged = {"Range": f"bytes={have}-", "If-Range": known["etag"]} if have and known.get("etag") else {}
        why = "it ended early"
        try:
            with urlopen(Request(url, headers=ranged), timeout=60) as answer:
                begin = have if answer.status == 206 else 0
                if not (left := answer.headers["Content-Length"]):
                    raise DataError(f"what {VARIABLE} leads to has no size: it is no file", RENEW)
                size = begin + int(left)
                if shutil.disk_usage(file.parent).free < 2 * size - begin:  # the rest of it, and what is in it
                    raise DiskError(f"{file.parent} has no room for {2 * size / 1e9:.1f} GB", "Free space, or move it.")
                write_json(note, {"etag": answer.headers.get("ETag", ""), "size": size})
                with open(file, "ab" if begin else "wb") as stream:
                    shutil.copyfileobj(answer, stream, 1 << 20)
        except HTTPError as error:
            problem = f"the server refused the link in {VARIABLE} (HTTP {error.code}): most expire after some days"
            raise DataError(problem, f"{RENEW} What was downloaded is kept.") from None
        except (OSError, HTTPException) as error:
            if disk_error(error):
                raise
            why = str(getattr(error, "reason", error)) or type(error).__name__
        if (file.stat().st_size if file.is_file() else 0) <= have:
            raise DataError(f"the download of {file.name} does not go on ({why})", f"Check the network. {AGAIN}")


def unpack(archive: Path, target: Path) -> int:
    """Unpack EchoNet-Dynamic, check that it is complete, remove the archive; returns the number of videos."""
    from echolung.data.sources.layouts import scan

    try:
        with atomic_directory(target) as folder:
            with zipfile.ZipFile(archive) as found:
                found.extractall(folder / "all")  # checks each file's CRC
            tables = sorted((folder / "all").rglob("FileList.csv")) or [folder / "all" / "FileList.csv"]
            for entry in list(tables[0].parent.iterdir()):
                entry.replace(folder / entry.name)
            shutil.rmtree(folder / "all")
            paths = scan("echonet", folder, "dynamic").manifest["path"]
            if missing := [Path(path).name for path in paths if not Path(path).is_file()]:
                raise DataError(f"the archive lacks {len(missing)} videos: {listed(missing)}", "")
    except (zipfile.BadZipFile, zlib.error, DataError) as error:
        why = getattr(error, "problem", str(error))
        raise DataError(f"{archive} is not a whole EchoNet-Dynamic ({why})", f"Delete it. {RENEW}") from None
    for path in (archive, archive.with_suffix(".json")):
        path.unlink()
    return len(paths)
