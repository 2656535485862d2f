"""File systems, as Linux and macOS list them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from telex.engines.embedded.mounts import filesystem_type, network_filesystem, parse_mount, parse_mountinfo


def test_mounts_are_read_as_the_kernel_writes_them() -> None:
    lines = [
        "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
        "35 22 0:30 / /mnt/my\\040disk rw shared:1 master:2 - nfs4 host:/export rw",
        "36 35 0:31 / /mnt/my\\040disk/local rw - tmpfs tmpfs rw",
        "37 22 0:32 / /home rw - ext4 /dev/vdb rw",
        "38 22 0:33 / /home rw - fuse.sshfs me@host: rw",
        "broken line",
    ]
    mounts = parse_mountinfo(lines)
    assert filesystem_type("/srv/telex.db", mounts) == "ext4"
    assert filesystem_type("/mnt/my disk", mounts) == "nfs4"
    assert filesystem_type("/mnt/my disk/a/b", mounts) == "nfs4"
    assert filesystem_type("/mnt/my disk/local/a", mounts) == "tmpfs"
    assert filesystem_type("/mnt/my disks", mounts) == "ext4"
    assert filesystem_type("/home/me", mounts) == "fuse.sshfs"  # Mounted over the other.


def test_mounts_are_read_as_macos_prints_them() -> None:
    lines = [
        "/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)",
        "//me@nas/media on /Volumes/Media (old) (smbfs, nodev, nosuid, mounted by me)",
        "map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)",
    ]
    mounts = parse_mount(lines)
    assert filesystem_type("/Volumes/Media (old)/telex.db", mounts) == "smbfs"
    assert filesystem_type("/Users/me", mounts) == "apfs"


def test_a_local_directory_is_not_on_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert network_filesystem(str(tmp_path)) is None
    real = os.path.realpath(tmp_path)
    monkeypatch.setattr("telex.engines.embedded.mounts._mounts", lambda: [("/", "ext4"), (real, "cifs")])
    assert network_filesystem(str(tmp_path)) == "cifs"
