"""Changes of files that know what a file is made of: JSON, safetensors, .npy, or bytes.

A change keeps what lies around it valid (lengths, offsets, syntax), so that the changed file is
refused late, if at all, and not at the first check.
"""

from __future__ import annotations

import ast
import copy
import json
import random
import struct
from typing import Any

Files = dict[str, bytes]
"""The files of an artefact by their path inside it; a file alone has the path ""."""

NUMBERS: tuple[int, ...] = (
    *(0, 1, -1, 2, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 2**31 - 1, 2**31),
    *(2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 10**30, 10**400),
)
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    *(None, True, False, "", "x", "../../x", "/etc/passwd", "\x00", "9" * 400, "\ud800", "..."),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), [], {}, [[]], [0], {"": 0}, [None] * 9),
)
SMALL_NUMBERS = tuple(number for number in NUMBERS if 0 <= number < 2**64)
_BROKEN: tuple[type[Exception], ...] = (
    *(ValueError, LookupError, TypeError, AttributeError, SyntaxError, RecursionError),
    *(struct.error, OverflowError, MemoryError),
)
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I8", "U8", "BOOL", "F8_E4M3", "C64", "X")
DESCRS = ("|u1", "|i1", "<f2", "<f4", ">f8", "<f16", "|b1", "|O", "|S9", "|V0", "<U0", "<M8[s]", "")


def mutate(files: Files, generator: random.Random) -> Files:
    """Change one to three things in the files of an artefact."""
    changed = dict(files)
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        name = generator.choice(sorted(changed) or [""])
        changed[name] = mutate_file(changed.get(name, b""), generator)
    if len(files) > 1 and generator.random() < 0.02:
        del changed[generator.choice(sorted(changed))]
    return changed


def mutate_file(content: bytes, generator: random.Random) -> bytes:
    """Change one thing, at the level of the file's structure or of its bytes."""
    if generator.random() < 0.7:
        try:
            return _mutate_structure(content, generator)
        except _BROKEN:
            pass  # an earlier change has broken the structure
    return mutate_bytes(content, generator)


def mutate_bytes(content: bytes, generator: random.Random) -> bytes:
    """Flip, set, cut out, put in, double or cut off bytes, or write a number over some."""
    data, place = bytearray(content), generator.randrange(len(content) + 1)
    size = generator.choice((1, 1, 2, 4, 8, 16, 64))
    action = generator.randrange(8)
    if action == 0 and place < len(data):
        data[place] ^= 1 << generator.randrange(8)
    elif action == 1 and place < len(data):
        data[place] = generator.randrange(256)
    elif action == 2:
        del data[place : place + size]
    elif action == 3:
        data[place:place] = generator.randbytes(size)
    elif action == 4:
        data[place:place] = data[place : place + size]
    elif action == 5:
        del data[place:]
    else:
        width = generator.choice((1, 2, 4, 8))
        number = generator.choice(SMALL_NUMBERS) % 256**width
        data[place : place + width] = number.to_bytes(width, "little")
    return bytes(data)


def mutate_json(content: Any, generator: random.Random) -> Any:
    """Change one value, key or element anywhere in a JSON value, in place; return the value."""
    holder, keys = content, _keys(content)
    if not keys:
        return generator.choice(VALUES)
    while True:
        key = generator.choice(keys)
        inner = _keys(holder[key])
        if not inner or generator.random() < 0.3:
            break
        holder, keys = holder[key], inner
    _change_entry(holder, key, generator)
    return content


def _change_entry(holder: Any, key: Any, generator: random.Random) -> None:
    action, value = generator.randrange(8), holder[key]
    if action == 0:
        del holder[key]
    elif action == 1 and isinstance(holder, dict):
        holder[generator.choice(("", "x", str(key) + "s", *map(str, holder)))] = holder.pop(key)
    elif action == 1:
        holder.insert(key, copy.deepcopy(value))
    elif action <= 3 and type(value) in (int, float):
        holder[key] = value + generator.choice((-1, 1, 1, 8, 0.5, 2**32, -(2**40)))
    elif action == 4 and isinstance(value, str) and value:
        place = generator.randrange(len(value))
        holder[key] = value[:place] + chr(generator.randrange(1, 128)) + value[place + 1 :]
    else:
        holder[key] = copy.deepcopy(generator.choice(VALUES))


def _keys(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if isinstance(value, list) else []


def _mutate_structure(content: bytes, generator: random.Random) -> bytes:
    if content.startswith(b"\x93NUMPY"):
        return _mutate_npy(content, generator)
    if content[8:9] == b"{":
        return _mutate_safetensors(content, generator)
    if content[:1] == b"{":
        return _mutate_json_text(content, generator)
    return mutate_bytes(content, generator)


def _mutate_json_text(content: bytes, generator: random.Random) -> bytes:
    lines = content.splitlines()
    if len(lines) > 1 and lines[0].endswith(b"}"):  # one object a line
        place = generator.randrange(len(lines))
        lines[place] = _mutate_json_text(lines[place], generator)
        return b"\n".join(lines) + b"\n"
    changed = mutate_json(json.loads(content), generator)
    text = json.dumps(changed, indent=generator.choice((None, 2)))
    if generator.random() < 0.03:  # a key twice
        text = text.replace("{", '{"format_version": 1, ', 1)
    if generator.random() < 0.02:
        text = text.replace("null", "[" * 3000, 1).replace(": 1,", ": " + "9" * 5000 + ",", 1)
    return text.encode("utf-8", "surrogatepass")


def _mutate_safetensors(content: bytes, generator: random.Random) -> bytes:
    (size,) = struct.unpack_from("<Q", content)
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    action = generator.randrange(5)
    if action == 0:
        return content[: 8 + size] + mutate_bytes(data, generator)
    if action == 1:
        tensor = header[generator.choice([key for key in header if key != "__metadata__"])]
        tensor["dtype"] = generator.choice(DTYPES)
    elif action == 2 and "__metadata__" in header:
        name = generator.choice(sorted(header["__metadata__"]))
        inner = mutate_file(header["__metadata__"][name].encode(), generator)
        header["__metadata__"][name] = inner.decode("utf-8", "replace")
    else:
        header = mutate_json(header, generator)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data


def _mutate_npy(content: bytes, generator: random.Random) -> bytes:
    (size,) = struct.unpack_from("<H", content, 8)
    header, data = ast.literal_eval(content[10 : 10 + size].decode()), content[10 + size :]
    action = generator.randrange(4)
    if action == 0:
        return content[: 10 + size] + mutate_bytes(data, generator)
    if action == 1:
        header["descr"] = generator.choice(DESCRS)
    elif action == 2:
        header["fortran_order"] = generator.choice((True, 1, None, "x"))
    else:
        shape = list(header["shape"])
        shape[generator.randrange(len(shape))] = generator.choice(NUMBERS)
        header["shape"] = tuple(shape[: generator.choice((0, 1, 2, 2, 2))])
    text = str(header).encode().ljust(size - 1) + b"\n"
    return content[:8] + struct.pack("<H", len(text) % 2**16) + text + data
