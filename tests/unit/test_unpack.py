"""Archives from strangers: what could do harm is refused before a byte is written, split ones read as whole ones."""

import errno
import io
import shutil
import stat
import struct
import subprocess
import tempfile
import tracemalloc
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrl.data.download.unpack import RECORD, UnpackLimits, unpack_zip
from migrl.errors import UserError

LIMITS = UnpackLimits(max_files=100, max_bytes=50_000_000)


@dataclass(frozen=True)
class Member:
    """One member as its headers shall describe it; None is the truth."""

    name: str
    data: bytes = b"content"
    mode: int = 0
    flags: int = 0x800
    method: int = 8
    size: int | None = None
    crc: int | None = None
    extra: bytes = b""


def build_zip(members: list[Member], *, volume_bytes: int | None = None, zip64: bool = False) -> list[bytes]:
    """The volumes of a zip after PKWARE's APPNOTE: headers are never split over volumes, data is."""
    volumes = [io.BytesIO()]

    def put(data: bytes, *, whole: bool = True) -> tuple[int, int]:
        if whole and volume_bytes and volumes[-1].tell() and volumes[-1].tell() + len(data) > volume_bytes:
            volumes.append(io.BytesIO())
        place = len(volumes) - 1, volumes[-1].tell()
        while data:
            room = len(data) if whole or not volume_bytes else volume_bytes - volumes[-1].tell()
            if room <= 0:
                volumes.append(io.BytesIO())
                continue
            volumes[-1].write(data[:room])
            data = data[room:]
        return place

    if volume_bytes:
        put(b"PK\x07\x08")
    central = []
    for member in members:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packer.compress(member.data) + packer.flush() if member.method == 8 else member.data
        crc = zlib.crc32(member.data) if member.crc is None else member.crc
        size = len(member.data) if member.size is None else member.size
        name = member.name.encode()
        both = struct.pack("<2Q", size, len(packed))
        extra = struct.pack("<2H", 1, 16) + both if zip64 else b""
        sizes = (0xFFFFFFFF, 0xFFFFFFFF) if zip64 else (len(packed), size)
        head = (20, member.flags, member.method, 0, 33, crc, *sizes, len(name))
        disk, offset = put(struct.pack("<4s5H3I2H", b"PK\x03\x04", *head, len(extra)) + name + extra)
        put(packed, whole=False)
        place = (disk, 0, member.mode << 16, offset)
        extra = struct.pack("<2H3s", 0x7777, 3, b"own") + member.extra  # a field of somebody else's, to be kept
        if zip64:
            extra += struct.pack("<2H", 1, 24) + both + struct.pack("<Q", offset)
            place = (disk, 0, member.mode << 16, 0xFFFFFFFF)
        entry = struct.pack("<4s6H3I3H2H2I", b"PK\x01\x02", 0x314, *head, len(extra), 0, *place)
        central.append(entry + name + extra)
    places = [put(entry) for entry in central] or [put(b"")]
    (disk, offset), size, count = places[0], sum(map(len, central)), len(central)
    if zip64:
        at, start = put(bytes(56))
        end64 = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, at, disk, count, count, size, offset)
        volumes[at].seek(start)
        volumes[at].write(end64)
        put(struct.pack("<4sIQI", b"PK\x06\x07", at, start, len(volumes)))
        count, size, offset = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, size, offset, 0)
    put(end)
    last = struct.pack("<2H", len(volumes) - 1, disk)
    data = volumes[-1].getvalue()
    return [*(volume.getvalue() for volume in volumes[:-1]), data[:-18] + last + data[-14:]]


def write_zip(folder: Path, volumes: list[bytes], name: str = "a") -> Path:
    for number, data in enumerate(volumes[:-1], start=1):
        (folder / f"{name}.z{number:02d}").write_bytes(data)
    (folder / f"{name}.zip").write_bytes(volumes[-1])
    return folder / f"{name}.zip"


def read_tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


ZEROS = bytes(20_000_000)
HOSTILE = {
    "an absolute name": [Member("/etc/x")],
    "a step upwards": [Member("a/../../x")],
    "a drive letter": [Member("C:/x")],
    "a drive letter without a slash": [Member("c:x")],
    "a step upwards with a backslash": [Member("a\\..\\..\\x")],
    "an absolute name with a backslash": [Member("\\x")],
    "a name on another machine": [Member("\\\\server\\x")],
    "a drive letter with a backslash": [Member("C:\\x")],
    "a name twice by another slash": [Member("a/x"), Member("a\\x", b"other")],
    "a null byte that hides an ending": [Member("x.png\0/../y")],
    "no name": [Member("")],
    "a long name": [Member("x" * 300)],
    "a link": [Member("x", b"/etc/passwd", mode=stat.S_IFLNK | 0o777)],
    "a device": [Member("x", b"", mode=stat.S_IFCHR | 0o666)],
    "a folder's mode on a file": [Member("x", mode=stat.S_IFDIR | 0o755)],
    "a folder with content": [Member("x/")],
    "a name twice": [Member("x"), Member("x", b"other")],
    "a file where a folder is": [Member("a/x"), Member("a")],
    "a folder below a file": [Member("a"), Member("a/x")],
    "the record's name": [Member(RECORD)],
    "an encrypted member": [Member("x", flags=0x801)],
    "a broken LZMA member": [Member("x", method=14)],
    "a broken bzip2 member": [Member("x", method=12)],
    "too many files": [Member(f"{n}") for n in range(101)],
    "too many bytes": [Member("x", bytes(50_000_001))],
    "a bomb": [Member("x", ZEROS)],
    "a size beyond what deflate can do": [Member("x", b"", size=40_000_000)],
    "a wrong checksum": [Member("x", crc=1)],
    "a size below the truth": [Member("x", bytes(1000), size=10)],
    "a size above the truth": [Member("x", b"short", size=500)],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_an_archive_that_could_do_harm_is_refused_and_leaves_nothing(members: list[Member], tmp_path: Path) -> None:
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    archive = write_zip(inside, build_zip([Member("first"), *members]))
    with pytest.raises(UserError, match=r"a\.zip: "):
        unpack_zip(archive, inside / "out", LIMITS)
    assert not (inside / "out").exists()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.zip"]


@pytest.mark.parametrize(("method", "name"), [(9, "deflate64"), (93, "zstandard"), (98, "PPMd"), (77, "method 77")])
def test_a_method_that_python_does_not_read_is_named_with_a_remedy(method: int, name: str, tmp_path: Path) -> None:
    archive = write_zip(tmp_path, build_zip([Member("first"), Member("x", method=method)]))
    with pytest.raises(UserError, match=rf"member 'x' is packed with {name}.*pack the files again with deflate"):
        unpack_zip(archive, tmp_path / "out", LIMITS)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_packed_by_bzip2_and_lzma_are_read_and_held_to_their_checksum(method: int, tmp_path: Path) -> None:
    tree = {"a/x": b"", "b": bytes(range(256)) * 20_000}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    assert unpack_zip(tmp_path / "a.zip", tmp_path / "out", LIMITS)
    assert read_tree(tmp_path / "out") == tree
    data = (tmp_path / "a.zip").read_bytes()
    crc = struct.pack("<I", zlib.crc32(tree["b"]))
    (tmp_path / "b.zip").write_bytes(data.replace(crc, struct.pack("<I", 1)))
    with pytest.raises(UserError, match="'b' is damaged"):
        unpack_zip(tmp_path / "b.zip", tmp_path / "no", LIMITS)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_of_bzip2_or_lzma_never_unfolds_in_memory(method: int, tmp_path: Path) -> None:
    zeros = bytes(100_000_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("x", zeros)
    lie = struct.pack("<I", len(zeros)), struct.pack("<I", 1000)
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes().replace(*lie))
    tracemalloc.start()
    with pytest.raises(UserError, match="not of the 1000 bytes"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "out", LIMITS)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def build_named(*names: bytes, flags: int = 0, extra: bytes = b"") -> list[bytes]:
    """A zip whose names are these bytes."""
    (data,) = build_zip([Member("n" * len(name), flags=flags, extra=extra) for name in names])
    for name in names:
        for _ in ("local header", "directory"):
            data = data.replace(b"n" * len(name), name, 1)
    return [data]


def test_names_are_read_as_utf8_where_their_bytes_are_and_as_the_zip_says_otherwise(tmp_path: Path) -> None:
    for name, raw in (("图片/狗 é.png", "图片/狗 é.png".encode()), ("grün.png", b"gr\x81n.png"), ("x.png", b"x.png")):
        archive = write_zip(tmp_path, build_named(raw))
        assert unpack_zip(archive, tmp_path / "out", LIMITS)
        assert list(read_tree(tmp_path / "out")) == [name]
    stated = "图.png"
    raw = stated.encode("gbk")
    body = struct.pack("<BL", 1, zlib.crc32(raw)) + stated.encode()
    field = struct.pack("<2H", 0x7075, len(body)) + body
    assert unpack_zip(write_zip(tmp_path, build_named(raw, extra=field)), tmp_path / "out", LIMITS)
    assert list(read_tree(tmp_path / "out")) == [stated]


def test_archives_of_windows_unpack_into_folders(tmp_path: Path) -> None:
    names = ["images\\", "images\\a\\1.png", "images//a//2.png", ".\\images\\3.png"]
    members = [Member(name, b"" if name.endswith("\\") else b"content") for name in names]
    archive = write_zip(tmp_path, build_zip(members))
    assert unpack_zip(archive, tmp_path / "out", LIMITS, holds=("a",))
    assert sorted(read_tree(tmp_path / "out")) == ["3.png", "a/1.png", "a/2.png"]


def test_members_that_share_packed_bytes_are_refused_as_a_bomb(tmp_path: Path) -> None:
    (data,) = build_zip([Member("x", bytes(1000), method=0)])
    at, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entries = data[at:end] + data[at:end].replace(b"x", b"y")
    last = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2, 2, len(entries), at, 0)
    archive = write_zip(tmp_path, [data[:at] + entries + last])
    with pytest.raises(UserError, match="overlap"):
        unpack_zip(archive, tmp_path / "out", LIMITS)


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x05\x06", b"PK\x05\x06" + b"\xff" * 18], ids=repr)
def test_what_is_no_archive_is_an_error_and_no_crash(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.zip"):
        unpack_zip(write_zip(tmp_path, [data]), tmp_path / "out", LIMITS)


@pytest.mark.parametrize("offset", [2**32 - 2, 5000, 2**63 + 9, 2**64 - 1])
def test_a_member_that_starts_outside_of_the_file_is_refused_and_leaves_nothing(offset: int, tmp_path: Path) -> None:
    extra = struct.pack("<2HQ", 1, 8, offset) if offset >= 2**32 else b""  # zip64, if the field itself is full
    (whole,) = build_zip([Member("a"), Member("b", extra=extra)])
    at = whole.rindex(b"PK\x01\x02") + 42  # where the central header of b says where it starts
    data = whole[:at] + struct.pack("<I", min(offset, 2**32 - 1)) + whole[at + 4 :]
    archive = write_zip(tmp_path, [data])
    with pytest.raises(UserError, match=rf"^{archive}: .*; do not use this archive"):
        unpack_zip(archive, tmp_path / "out", LIMITS)
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


def test_an_end_that_places_the_members_before_the_file_is_refused(tmp_path: Path) -> None:
    (whole,) = build_zip([Member("a"), Member("b")])
    end = whole.index(b"PK\x05\x06")
    start = struct.unpack("<I", whole[end + 16 : end + 20])[0]
    for wrong in (start + 10, start - 10, 2**32 - 2):
        archive = write_zip(tmp_path, [whole[: end + 16] + struct.pack("<I", wrong) + whole[end + 20 :]])
        with pytest.raises(UserError, match=f"^{archive}: "):
            unpack_zip(archive, tmp_path / "out", LIMITS)
        assert [path.name for path in tmp_path.iterdir()] == [archive.name]


def test_what_cannot_be_written_leaves_nothing_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_zip(tmp_path, build_zip([Member("a"), Member("b")]))

    def fail(path: Path, mode: str = "r", **rest: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr("migrl.data.download.unpack.write_json", fail)
        unpack_zip(archive, tmp_path / "out", LIMITS)
    assert [path.name for path in tmp_path.iterdir()] == [archive.name]


@pytest.mark.parametrize("split", [False, True])
def test_whatever_byte_is_flipped_the_answer_is_an_error_or_the_right_content(split: bool, tmp_path: Path) -> None:
    members = [Member(f"d/{n}", bytes([n]) * 40) for n in range(3)]
    volumes = build_zip(members, volume_bytes=150 if split else None, zip64=split)
    for number, volume in enumerate(volumes):
        for at in range(0, len(volume), 5):
            flipped = bytearray(volume)
            flipped[at] ^= 0x55
            archive = write_zip(tmp_path, [*volumes[:number], bytes(flipped), *volumes[number + 1 :]])
            target = tmp_path / f"{number}-{at}"
            try:
                unpack_zip(archive, target, LIMITS)
            except UserError:
                assert not target.exists()
            else:
                assert set(read_tree(target).values()) <= {member.data for member in members}


def test_the_folder_that_has_the_named_sub_folders_becomes_the_target(tmp_path: Path) -> None:
    for number, root in enumerate(("", "images/", "home/x/MIG-Bench/images/")):
        names = ["readme", f"{root}common/1.png", f"{root}region/2.png"]
        names += [f"__MACOSX/{root}common/._1", f"__MACOSX/{root}region/._2"]
        archive = write_zip(tmp_path, build_zip([Member(name) for name in names]), name=f"z{number}")
        target = tmp_path / f"out{number}"
        assert unpack_zip(archive, target, LIMITS, holds=("common", "region"))
        assert set(read_tree(target)) - {"readme"} >= {"common/1.png", "region/2.png"}
    with pytest.raises(UserError, match=r"no folder in it with the sub-folders other; at its top are: __MACOSX, home"):
        unpack_zip(archive, tmp_path / "no", LIMITS, holds=("other",))


def test_a_second_call_does_nothing_until_a_file_is_lost_or_the_archive_changes(tmp_path: Path) -> None:
    members = [Member("a/x"), Member("a/", b""), Member("./b/y", b""), Member("c/", b"")]
    archive, target = write_zip(tmp_path, build_zip(members)), tmp_path / "to" / "out"
    assert unpack_zip(archive, target, LIMITS)
    assert read_tree(target) == {"a/x": b"content", "b/y": b""}
    assert not unpack_zip(archive, target, LIMITS)
    (target / "a" / "x").unlink()
    (tmp_path / "to" / "out.partial").mkdir()
    (tmp_path / "to" / "out.partial" / "junk").write_text("of a killed run")
    assert unpack_zip(archive, target, LIMITS)
    assert read_tree(target) == {"a/x": b"content", "b/y": b""}
    write_zip(tmp_path, build_zip([replace(members[0], data=b"CONTENT")]))
    assert unpack_zip(archive, target, LIMITS)
    assert read_tree(target) == {"a/x": b"CONTENT"}
    assert sorted(path.name for path in target.parent.iterdir()) == ["out"]


def test_a_folder_that_somebody_else_filled_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("work")
    with pytest.raises(UserError, match="move it away"):
        unpack_zip(write_zip(tmp_path, build_zip([Member("x")])), tmp_path / "out", LIMITS)
    assert (tmp_path / "out" / "precious").read_text() == "work"


def test_a_missing_volume_is_named(tmp_path: Path) -> None:
    archive = write_zip(tmp_path, build_zip([Member("x", bytes(range(256)), method=0)], volume_bytes=100))
    (tmp_path / "a.z02").unlink()
    with pytest.raises(UserError, match=r"not beside it: a\.z02;"):
        unpack_zip(archive, tmp_path / "out", LIMITS)


_part = st.text("abcé日 -_.", min_size=1, max_size=4).filter(lambda text: text not in (".", ".."))
_name = st.lists(_part, min_size=1, max_size=3).map("/".join)


@settings(max_examples=60)
@given(
    tree=st.dictionaries(_name, st.binary(max_size=600), max_size=8),
    volume_bytes=st.none() | st.integers(110, 700),
    zip64=st.booleans(),
    method=st.sampled_from([0, 8]),
)
def test_a_tree_survives_zip_split_and_unpack(
    tree: dict[str, bytes], volume_bytes: int | None, zip64: bool, method: int
) -> None:
    tree = {name: data for name, data in tree.items() if not any(other.startswith(name + "/") for other in tree)}
    members = [Member(name, data, method=method, mode=stat.S_IFREG | 0o644) for name, data in tree.items()]
    with tempfile.TemporaryDirectory() as folder:
        archive = write_zip(Path(folder), build_zip(members, volume_bytes=volume_bytes, zip64=zip64))
        assert unpack_zip(archive, Path(folder) / "out", LIMITS)
        assert read_tree(Path(folder) / "out") == tree
        assert not unpack_zip(archive, Path(folder) / "out", LIMITS)


def test_offsets_beyond_four_gigabytes_are_found(tmp_path: Path) -> None:
    archive = write_zip(tmp_path, build_zip([Member("a"), Member("b", b"far away")], volume_bytes=70))
    with (tmp_path / "a.z01").open("r+b") as file:
        file.truncate(5_000_000_000)  # a hole on the disk: the second volume now starts that much later
    assert unpack_zip(archive, tmp_path / "out", LIMITS)
    assert read_tree(tmp_path / "out") == {"a": b"content", "b": b"far away"}


def test_split_archives_are_held_to_the_same_rules(tmp_path: Path) -> None:
    members = [Member("fine", bytes(range(256)), method=0), Member("../x")]
    archive = write_zip(tmp_path, build_zip(members, volume_bytes=120, zip64=True))
    with pytest.raises(UserError, match="'../x' has an empty or `..` part"):
        unpack_zip(archive, tmp_path / "out", LIMITS)


@pytest.mark.skipif(shutil.which("zip") is None, reason="Info-ZIP's zip is not installed")
@pytest.mark.parametrize("zip64", [False, True])
def test_an_archive_split_by_info_zip_unpacks(zip64: bool, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "d").mkdir(parents=True)
    for n in range(4):
        (source / "d" / f"{n}.bin").write_bytes(b"".join(struct.pack("<Q", k * k * (n + 7)) for k in range(9000)))
    command = ["zip", "-q", "-0", "-r", *["-fz"] * zip64, "-s", "64k", str(tmp_path / "a.zip"), "."]
    subprocess.run(command, cwd=source, check=True)
    assert (tmp_path / "a.z04").exists()
    assert unpack_zip(tmp_path / "a.zip", tmp_path / "out", LIMITS)
    assert read_tree(tmp_path / "out") == read_tree(source)


def test_names_that_differ_in_case_only_are_two_files(tmp_path: Path) -> None:
    archive = write_zip(tmp_path, build_zip([Member("a/x.png", b"1"), Member("A/X.PNG", b"2")]))
    assert unpack_zip(archive, tmp_path / "out", LIMITS)
    assert read_tree(tmp_path / "out") == {"a/x.png": b"1", "A/X.PNG": b"2"}
