"""What kind of file system a path lies on: network file systems cannot hold a store."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable

_NETWORK = """
nfs nfs3 nfs4 cifs smb2 smb3 smbfs 9p afs afpfs webdav ceph glusterfs lustre gpfs beegfs ocfs2 gfs2 ncpfs coda
vboxsf vmhgfs prl_fs fuse.sshfs fuse.s3fs fuse.rclone fuse.gcsfuse fuse.goofys fuse.mount-s3 fuse.ceph
fuse.glusterfs fuse.davfs fuse.vmhgfs-fuse fuse.grpcfuse fuse.osxfs fuse.juicefs fuse.curlftpfs macfuse
"""
NETWORK = frozenset(_NETWORK.split())
"""File systems whose locks or shared memory do not hold between all who may open the file."""


def network_filesystem(path: str) -> str | None:
    """The type of the network file system that holds ``path``, for example ``nfs4``; None for a local one."""
    kind = filesystem_type(os.path.realpath(path), _mounts())
    return kind if kind in NETWORK else None


def filesystem_type(path: str, mounts: Iterable[tuple[str, str]]) -> str:
    """The type of the mount that holds an absolute path: of the deepest, and of those the last mounted."""
    best, kind = "", ""
    for point, name in mounts:
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind


def _mounts() -> list[tuple[str, str]]:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return parse_mountinfo(file)
    except OSError:
        pass
    try:
        done = subprocess.run(["/sbin/mount"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_mount(done.stdout.splitlines())


def parse_mountinfo(lines: Iterable[str]) -> list[tuple[str, str]]:
    """(mount point, type) of each line of Linux's ``/proc/self/mountinfo``; see proc(5)."""
    found = []
    for line in lines:
        before, mark, after = line.partition(" - ")
        fields = before.split(" ")
        if mark and len(fields) > 4:
            point = fields[4]
            for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
                point = point.replace(code, char)
            found.append((point, after.split(" ", 1)[0]))
    return found


def parse_mount(lines: Iterable[str]) -> list[tuple[str, str]]:
    """(mount point, type) of each line that macOS's ``mount`` prints: ``//a@b/c on /Volumes/c (smbfs, nodev)``."""
    found = []
    for line in lines:
        before, mark, options = line.rpartition(" (")
        _, on, point = before.partition(" on ")
        if mark and on:
            found.append((point, options.rstrip(")").split(",", 1)[0]))
    return found
