"""A folder, or a zip file, of submissions as a learning platform hands them out: whose they are, which one counts.

Known names:

    Moodle   Ada Lovelace_1234567_assignsubmission_file_/01_routing.ipynb   (or ..._file_01_routing.ipynb, no folder)
    Canvas   lovelaceada_LATE_12345_67890_01_routing-1.ipynb                (_LATE_ and -1, the attempt, may be missing)
    plain    ada/01_routing.ipynb, or ada.ipynb
"""

from __future__ import annotations

import datetime
import hashlib
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from adamix_lab.core.errors import LabError

MOODLE = re.compile(r"^(?P<name>.+)_(?P<id>\d+)_assignsubmission_(?:file|onlinetext)_?(?P<file>.*)$")
CANVAS = re.compile(r"^(?P<name>[^_]+)(?P<late>_LATE)?_(?P<id>\d+)_(?P<upload>\d+)_(?P<file>.+)$")
ATTEMPT = re.compile(r"-(\d+)$")
LARGEST = 20_000_000  # bytes of one submission
MOST = 5_000  # files of one zip


@dataclass(frozen=True)
class Submission:
    """One person's file.

    Attributes:
        person: an id that is a safe folder's name.
        name: as the platform spells it.
        platform: "moodle", "canvas" or "plain".
        number: the platform's id of the person, or "".
        file: where it came from, for messages.
        data: its bytes.
        when: last change, as the folder or the zip file tells it.
        late: the platform marked it so, or it came after the time that was given.
        rank: among several of one person, the highest counts.
        remarks: in words, for the person.
    """

    person: str
    name: str
    platform: str
    number: str
    file: str
    data: bytes
    when: datetime.datetime
    late: bool
    rank: tuple[int, int, datetime.datetime]
    remarks: tuple[str, ...] = field(default=())

    @property
    def digest(self) -> str:
        """Of the bytes: equal submissions need no new grading."""
        return hashlib.sha256(self.data).hexdigest()


def collect(source: Path, due: datetime.datetime | None = None) -> list[Submission]:
    """The submission that counts for each person, in the order of their names; what was wrong is in its remarks.

    Args:
        source: a folder (zip files in it are looked into), or one zip file.
        due: local time after which a submission is late, where the platform does not say it itself.

    Raises FileNotFoundError where there is nothing, ValueError for a zip that cannot be trusted.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source} is not there: expected a folder of submissions, or the platform's zip file.")
    found = [_submission(place, data, when, due) for place, data, when in _files(source)]
    if not found:
        raise FileNotFoundError(f"{source} holds no files: expected notebooks, in folders or zip files by person.")
    people: dict[str, list[Submission]] = {}
    for submission in found:
        people.setdefault(submission.person, []).append(submission)
    return [_newest(several) for _, several in sorted(people.items())]


def _files(source: Path) -> Iterator[tuple[PurePosixPath, bytes, datetime.datetime]]:
    """(path below the source, bytes, last change); hidden files and systems' leftovers are passed over."""
    if source.is_file():
        yield from _zipped(source)
        return
    for path in sorted(source.rglob("*")):
        place = PurePosixPath(path.relative_to(source).as_posix())
        if not path.is_file() or path.is_symlink() or _leftover(place):
            continue
        if path.suffix == ".zip" and path.parent == source:
            yield from _zipped(path)
        else:
            data = path.read_bytes() if path.stat().st_size <= LARGEST else b""
            yield place, data, datetime.datetime.fromtimestamp(path.stat().st_mtime)


def _zipped(path: Path) -> Iterator[tuple[PurePosixPath, bytes, datetime.datetime]]:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise LabError(f"{path} is no zip file ({error}): expected the platform's download. Fetch it again.") from error
    with archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        if len(entries) > MOST:
            raise LabError(f"{path} holds {len(entries)} files: expected at most {MOST}, a few a person.")
        for entry in entries:
            place = PurePosixPath(entry.filename.replace("\\", "/"))
            if place.is_absolute() or ".." in place.parts:
                raise LabError(f"{path}: the name {entry.filename!r} leaves the folder. This zip is not to be trusted.")
            if not _leftover(place):
                # what is too large is not unpacked; it is then no notebook, and that is told
                data = archive.read(entry) if entry.file_size <= LARGEST else b""
                yield place, data, datetime.datetime(*entry.date_time)


def _leftover(place: PurePosixPath) -> bool:
    return any(part.startswith((".", "__MACOSX")) or part == "Thumbs.db" for part in place.parts)


def _submission(
    place: PurePosixPath, data: bytes, when: datetime.datetime, due: datetime.datetime | None
) -> Submission:
    first, late = place.parts[0], due is not None and when > due
    if match := MOODLE.match(first):
        person, platform = match["id"], "moodle"
    elif match := CANVAS.match(place.name):
        person, platform, late = match["id"], "canvas", late or bool(match["late"])
    else:
        person, platform = (first if len(place.parts) > 1 else place.stem), "plain"
    attempt = ATTEMPT.search(place.stem) if platform == "canvas" else None
    rank = (int(place.suffix == ".ipynb"), int(attempt[1]) if attempt else 0, when)
    name = match["name"] if match else person
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", person).strip("-") or hashlib.sha256(person.encode()).hexdigest()[:8]
    if safe != person:  # two names that differ in what was replaced stay apart
        safe += "-" + hashlib.sha256(person.encode()).hexdigest()[:4]
    remarks = ("It came late.",) if late else ()
    number = person if platform != "plain" else ""
    return Submission(safe, name, platform, number, str(place), data, when, late, rank, remarks)


def _newest(several: Sequence[Submission]) -> Submission:
    best = max(several, key=lambda s: s.rank)
    others = [s.file for s in several if s is not best]
    if not others:
        return best
    words = f"Of {len(several)} files, {best.file} counts; left aside: {', '.join(sorted(others))}."
    return replace(best, remarks=(*best.remarks, words))
