"""A folder, or a zip file, of submissions as a learning platform hands them out: whose they are, which one counts.

Known names:

    Moodle   Ada Lovelace_1234567_assignsubmission_file_/01_routing.ipynb   (or ..._file_01_routing.ipynb, no folder)
    Canvas   lovelaceada_LATE_12345_67890_01_routing-1.ipynb                (_LATE_ and -1, the attempt, may be missing)
    plain    ada/01_routing.ipynb, or ada.ipynb, or ada.zip

Nothing is unpacked: a file is read when it is graded, one at a time.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import posixpath
import re
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import takewhile
from pathlib import Path, PurePosixPath

from adamix_lab.core.errors import LabError

MOODLE = re.compile(r"^(?P<name>.+)_(?P<id>\d+)_assignsubmission_(?:file|onlinetext)_?(?P<file>.*)$")
CANVAS = re.compile(r"^(?P<name>[^_]+)(?P<late>_LATE)?_(?P<id>\d+)_(?P<upload>\d+)_(?P<file>.+)$")
ATTEMPT = re.compile(r"-(\d+)$")
LARGEST = 20_000_000  # bytes of one file
TOTAL = 1_000_000_000  # bytes of all files of one zip
MOST = 5_000  # files of one zip
NEVER = datetime.datetime(1980, 1, 1)  # what a zip file gives for a date that is not known


@dataclass(frozen=True)
class File:
    """A file that was handed in: its place as the platform has it, its last change and size, and how to read it."""

    place: PurePosixPath
    when: datetime.datetime
    size: int
    read: Callable[[], bytes]
    path: Path | None = None  # where it is not in a zip file


@dataclass(frozen=True)
class Submission:
    """What one person handed in.

    Attributes:
        person: an id that is a safe folder's name.
        name: as the platform spells it.
        platform: "moodle", "canvas" or "plain".
        number: the platform's id of the person, or "".
        file: where it came from, for messages.
        sources: the file that counts, then the `.py` files beside it, by the names that it imports them by.
        late: the platform marked it so, or it came after the time that was given.
        rank: among several of one person, the highest counts.
        remarks: in words, for the person.
    """

    person: str
    name: str
    platform: str
    number: str
    file: str
    sources: tuple[tuple[str, File], ...]
    late: bool
    rank: tuple[int, int, datetime.datetime]
    remarks: tuple[str, ...] = field(default=())

    def read(self) -> dict[str, bytes]:
        """The bytes of its files by name, the one that counts first. Raises LabError where one cannot be read."""
        found = {}
        for name, file in self.sources:
            if file.size > LARGEST:
                raise LabError(f"{name} is larger than {LARGEST // 1_000_000} MB: expected a notebook (.ipynb).")
            try:
                found[name] = file.read()
            except Exception as error:  # zipfile raises many kinds
                raise LabError(
                    f"{name} could not be read ({error}): hand it in again, not locked, zipped anew."
                ) from error
        return found


def collect(
    source: Path, due: datetime.datetime | None = None, tell: Callable[[str], None] = lambda words: None
) -> list[Submission]:
    """The submission that counts for each person, in the order of their names; what was wrong is in its remarks.

    Args:
        source: a folder, or one zip file; zip files in it are looked into.
        due: local time after which a submission is late, where the platform does not say it itself.
        tell: takes what was odd and is no one person's, in words.

    Raises FileNotFoundError where there is nothing, ValueError for a zip that cannot be trusted.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source} is not there: expected a folder of submissions, or the platform's zip file.")
    files = list(_zipped(source, source) if source.is_file() else _folder(source))
    files = list(_expanded(_without_root(files, source.stem, tell), tell))
    chance = _by_chance(files)
    handed: dict[tuple[str, str], list[Submission]] = {}
    for file in files:
        match = None if file.place in chance else _of_platform(file.place)
        if len(file.place.parts) == 1 and not match and file.place.suffix not in (".ipynb", ".zip"):
            tell(f"{file.place} belongs to nobody: it was left aside.")
            continue
        submission = _submission(file, due, match)
        handed.setdefault((submission.person, submission.platform), []).append(submission)
    if not handed:
        raise FileNotFoundError(f"{source} holds no files: expected notebooks, in folders or zip files by person.")
    people = [_newest(several) for _, several in sorted(handed.items())]
    names = Counter(person.name.casefold() for person in people)
    for name in sorted(name for name in names if names[name] > 1):
        twins = [person for person in people if person.name.casefold() == name]
        tell(f"{len(twins)} people are called {twins[0].name}: {', '.join(twin.file for twin in twins)}.")
    ids = Counter(person.person.casefold() for person in people)  # some systems take capitals for small letters
    return [_apart(person) if ids[person.person.casefold()] > 1 else person for person in people]


def found(people: Sequence[Submission]) -> str:
    """Who was found, a line a person."""
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(Counter(p.platform for p in people).items()))
    width = min(30, max(len(person.name) for person in people))
    lines = [f"Found {len(people)} people ({kinds}):"]
    for person in people:
        beside = "".join(f" + {name}" for name, _ in person.sources[1:]) + ("" if person.rank[0] else "  No notebook.")
        lines.append("  ".join(["", f"{person.name:{width}}", f"{person.file}{beside}", *person.remarks]))
    return "\n".join(lines)


def _folder(source: Path) -> Iterator[File]:
    """Hidden files and systems' leftovers are passed over."""
    for path in sorted(source.rglob("*")):
        place = PurePosixPath(unicodedata.normalize("NFC", path.relative_to(source).as_posix()))
        if path.is_file() and not path.is_symlink() and not _leftover(place):
            about = path.stat()
            when = datetime.datetime.fromtimestamp(about.st_mtime)
            yield File(place, when, about.st_size, path.read_bytes, path)


def _expanded(files: Sequence[File], tell: Callable[[str], None]) -> Iterator[File]:
    """The files, and what zip files among them hold in their place: many people's, or what one person zipped."""
    broken = []
    for file in files:
        if file.place.suffix.lower() != ".zip" or (file.path is None and file.size > LARGEST):
            yield file
            continue
        try:
            inside = _without_root(list(_zipped(file.place, file.path, file.read)), file.place.stem, tell)
        except LabError as error:
            broken.append(error)
            if len(broken) == len(files):
                raise
            tell(str(error))
            yield file  # that person is told, and all others are graded
            continue
        loose = len(file.place.parts) == 1 and not _of_platform(file.place)
        owners = {_owner(f.place, _of_platform(f.place)) for f in inside if f.place.suffix == ".ipynb"}
        if loose and (len(owners) > 1 or any(MOODLE.match(f.place.parts[0]) for f in inside)):
            yield from inside
        else:
            yield from (replace(f, place=_beside(file.place, f.place.name)) for f in inside)


def _beside(zipped: PurePosixPath, name: str) -> PurePosixPath:
    if match := CANVAS.match(zipped.name):
        return zipped.with_name(zipped.name[: match.start("file")] + name)
    return zipped.with_name(name) if len(zipped.parts) > 1 else PurePosixPath(zipped.stem) / name


def _without_root(files: list[File], name: str, tell: Callable[[str], None]) -> list[File]:
    """The files without a folder around all of them: a folder that was zipped, a download that was zipped again."""
    folders = [f.place.parent for f in files if f.place.suffix in (".ipynb", ".zip")] or [PurePosixPath()]
    shared = PurePosixPath(posixpath.commonpath(map(str, folders))).parts
    around = list(takewhile(lambda part: not MOODLE.match(part), shared))
    below = {folder.parts[len(around) : len(around) + 1] for folder in folders}
    if () in below:  # the last of the folders may be a person's
        known = around and around[0].casefold() in (name.casefold(), "submissions")
        around = around[:1] if known and (len(around) > 1 or len(folders) > 1) else []
    if not around:
        return files
    tell(f"{'/'.join(around)} is the folder around all submissions, and nobody's name.")
    inside = posixpath.join(*around)
    return [replace(f, place=f.place.relative_to(posixpath.commonpath([inside, f.place.parent]))) for f in files]


def _zipped(name: object, path: Path | None, read: Callable[[], bytes] = bytes) -> Iterator[File]:
    """The files of a zip file, which is at a path, or read from another one."""

    def opened() -> zipfile.ZipFile:
        return zipfile.ZipFile(path or io.BytesIO(read()))

    try:
        with opened() as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    except Exception as error:  # zipfile raises many kinds
        raise LabError(f"{name} is no zip file ({error}): expected the platform's download. Fetch it again.") from error
    if len(entries) > MOST:
        raise LabError(f"{name} holds {len(entries)} files: expected at most {MOST}, a few a person.")
    if sum(entry.file_size for entry in entries) > TOTAL:
        raise LabError(f"{name} would unpack to more than {TOTAL / 1e9:g} GB: expected notebooks, a few MB each.")
    for entry in entries:
        place = PurePosixPath(unicodedata.normalize("NFC", entry.filename.replace("\\", "/")))
        if place.is_absolute() or ".." in place.parts:
            raise LabError(f"{name}: the name {entry.filename!r} leaves the folder. This zip is not to be trusted.")
        if not _leftover(place):
            yield File(place, _date(entry), entry.file_size, partial(_entry, opened, entry))


def _entry(opened: Callable[[], zipfile.ZipFile], entry: zipfile.ZipInfo) -> bytes:
    with opened() as archive:
        return archive.read(entry)


def _date(entry: zipfile.ZipInfo) -> datetime.datetime:
    try:
        return datetime.datetime(*entry.date_time)
    except ValueError:  # month 0, day 0
        return NEVER


def _leftover(place: PurePosixPath) -> bool:
    return any(part.startswith((".", "__MACOSX")) or part == "Thumbs.db" for part in place.parts)


def _of_platform(place: PurePosixPath) -> re.Match[str] | None:
    """What Moodle's or Canvas's name of a file says; None where it is neither's."""
    return MOODLE.match(place.parts[0]) or CANVAS.match(place.name)


def _by_chance(files: Sequence[File]) -> set[PurePosixPath]:
    """Files that are called as Canvas calls them by chance: numbers, such as a date, that other people's have, too."""
    named = [(f.place, match) for f in files if (match := _of_platform(f.place)) and match.re is CANVAS]
    people = {(n, match[n], place.parent, match["name"]) for place, match in named for n in ("id", "upload")}
    shared = Counter((n, number) for n, number, *_ in people)
    return {place for place, match in named if max(shared[n, match[n]] for n in ("id", "upload")) > 1}


def _owner(place: PurePosixPath, match: re.Match[str] | None) -> str:
    """Whose a file is by its name: one of a platform, or the folder, or the file."""
    if match:
        return match["id"]
    return place.parts[0] if len(place.parts) > 1 else place.stem


def _submission(file: File, due: datetime.datetime | None, match: re.Match[str] | None) -> Submission:
    place, person = file.place, _owner(file.place, match)
    platform = "plain" if match is None else "canvas" if match.re is CANVAS else "moodle"
    late = (due is not None and file.when > due) or bool(platform == "canvas" and match and match["late"])
    own, attempt = (match["file"] if match else "") or place.name, 0
    if platform == "canvas" and (found := ATTEMPT.search(place.stem)):
        own, attempt = own.replace(found[0] + place.suffix, place.suffix), int(found[1])
    remarks = ("It came late.",) if late else ()
    if file.when == NEVER and due is not None:
        remarks = ("Its file has no date: whether it came late is not known.",)
    name, number = (match["name"], person) if match else (person, "")
    rank = (int(place.suffix == ".ipynb"), attempt, file.when)
    made = Submission(person, name, platform, number, str(place), ((own, file),), late, rank, remarks)
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", person).strip("-")
    # two names that differ in what was replaced stay apart
    return made if safe == person else _apart(replace(made, person=safe), person)


def _apart(submission: Submission, person: str = "") -> Submission:
    """With an id that nobody else has."""
    told = person or submission.platform + submission.name + submission.number
    digest = hashlib.sha256(told.encode()).hexdigest()
    safe = submission.person
    return replace(submission, person=f"{safe}-{digest[:4]}" if safe else digest[:8])


def _newest(several: Sequence[Submission]) -> Submission:
    best = max(several, key=lambda s: s.rank)
    folder, beside = best.sources[0][1].place.parent, {}
    for other in sorted(several, key=lambda s: s.rank):
        name, file = other.sources[0]
        if best.rank[0] and file.place.parent == folder and file.place.suffix == ".py" and name[:-3].isidentifier():
            beside[name] = other
    best = replace(best, sources=(*best.sources, *(other.sources[0] for other in beside.values())))
    counted = {best.file, *(other.file for other in beside.values())}
    others = sorted(s.file for s in several if s.file not in counted)
    if not others:
        return best
    words = f"Of {len(several)} files, {best.file} counts; left aside: {', '.join(others)}."
    return replace(best, remarks=(*best.remarks, words))
