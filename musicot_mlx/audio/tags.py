"""What libsndfile gets wrong in files it writes: the texts of an MP3, the random number of an Ogg.

It writes ID3 in UTF-8 and calls it Latin 1, and gives every Ogg stream a serial number of its own,
where the same song is to give the same bytes.
"""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_FRAMES = {"title": b"TIT2", "comment": b"COMM"}


def add_id3(path: Path, texts: Mapping[str, str]) -> None:
    """Put an ID3v2.4 tag of `title` and `comment` in UTF-8 before an MP3's frames."""
    frames = b""
    for name, text in texts.items():
        language = b"eng\0" if name == "comment" else b""  # and no description
        body = b"\x03" + language + text.encode("utf-8", "replace")
        frames += _FRAMES[name] + _synchsafe(len(body)) + b"\0\0" + body
    if frames:
        tag = b"ID3\x04\0\0" + _synchsafe(len(frames)) + frames
        path.write_bytes(tag + path.read_bytes())


def _synchsafe(size: int) -> bytes:
    """28 bits, seven a byte."""
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))


def fix_ogg_serial(path: Path, serial: int = 1) -> None:
    """Give every page of an Ogg file this serial number (RFC 3533) and the checksum it then has."""
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    start = 0
    while start + 27 <= len(data) and data[start : start + 4].tobytes() == b"OggS":
        segments = int(data[start + 26])
        head = start + 27 + segments
        end = head + int(data[start + 27 : head].sum(dtype=int))
        data[start + 14 : start + 18] = np.frombuffer(struct.pack("<I", serial), np.uint8)
        data[start + 22 : start + 26] = 0
        checksum = _crc(data[start:end].tobytes())
        data[start + 22 : start + 26] = np.frombuffer(struct.pack("<I", checksum), np.uint8)
        start = end
    path.write_bytes(data.tobytes())


def _crc(page: bytes) -> int:
    """Ogg's checksum: CRC-32 of the polynomial 04c11db7, neither reflected nor inverted."""
    found = 0
    for byte in page:
        found = (found << 8 & 0xFFFFFFFF) ^ _TABLE[found >> 24 ^ byte]
    return found


def _entry(byte: int) -> int:
    found = byte << 24
    for _ in range(8):
        found = found << 1 ^ (0x04C11DB7 if found & 0x80000000 else 0)
        found &= 0xFFFFFFFF
    return found


_TABLE = [_entry(byte) for byte in range(256)]
