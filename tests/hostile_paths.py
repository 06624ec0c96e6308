"""Paths somebody might send who wants out of a root, made from a seed; and a root with ways that seem to lead out."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

# In no answer, whatever is asked: content and name of what lies outside.
CANARY = "canary-5f1d"

_NAMES = [
    *("..", "..", "..", ".", "", "a", "b", "c.txt", "out", "out.txt", "absolute", "inside", "loop", "nowhere", "magic"),
    *("...", "....", "x ", ".. ", " ..", "..;", "..%00", "..%01", "~", "~root", "a.", "a..", "b.", "c.txt.", "c.txt "),
    *("%2e%2e", "%2e.", "%252e%252e", "%c0%ae%c0%ae", "%uff0e%uff0e", "&#46;&#46;", "..%2f..%2f", "%2e%2e%5c"),
    *("\\x2e\\x2e", "\\x2f", "\\x00", "\\xff", "\\xff..", "\\\\", "\\\\x2e", "\\u002e", "\\..", "..\\", "\\", "..\\.."),
    *("\uff0e\uff0e", "\u2025", "\u2024\u2024", "..\u200b", "\u202e..", "\u2066..", "\u2215", "\uff0f", "\u0301.."),
    *(
        "..\n",
        "\r..",
        "\t",
        "..\x7f",
        "\x1b[2J",
        "\u0085",
        "\u2028",
        "C:",
        "C:\\",
        "\\\\?\\",
        "file:",
        "team:",
        "acme:",
    ),
    *("proc", "self", "root", "fd", "cwd", "3", "etc", "passwd", "dev", "\u00e9", "e\u0301", "a" * 255, "a" * 256),
    *(CANARY, f"{CANARY}.txt", "secret", "key.txt", "team", "import", "keys", "mesh.pem"),
]
_SEPARATORS = [
    *("/",) * 8,
    "//",
    "/./",
    "/../",
    "\\",
    "\\..\\",
    "%2f",
    "%2F",
    "%5c",
    "\u2215",
    "\uff0f",
    "\0",
    ":",
    ";",
]
_BEGINNINGS = [
    *("",) * 6,
    *("/", "./", "../", "//", "///", "~/", "file://", "file:///", "\\\\", "team:", "team:/", "team:../", ":", "*:"),
    *("/proc/self/root/", "/proc/self/cwd/", "/proc/self/fd/3/", "/dev/fd/4/", "/proc/1/root/", "/etc/", "/dev/stdin"),
]
_REAL = [
    *(
        "",
        "a",
        "a/b",
        "a/b/c.txt",
        "a/b/hard.txt",
        "t.txt",
        "out",
        "out.txt",
        f"out/{CANARY}.txt",
        "inside/c.txt",
        "up",
    ),
    *(
        "magic/etc/passwd",
        "self/3",
        "team/t.txt",
        f"absolute/{CANARY}.txt",
        "up/outside",
        "loop/loop",
        "nowhere",
        ".../x ",
    ),
    *(f"up/{CANARY}.txt", f"{CANARY}.txt", "x /root/a", f".../{CANARY}.txt", "%2e%2e/outside", "\\x2e\\x2e/outside"),
]


@dataclass(frozen=True)
class Trap:
    """Folders on the way out of which lies what nobody may see.

    Attributes:
        root: What may be seen.
        team: A second root, inside which nothing may be seen of the first.
        outside: Holds the canary.
    """

    root: Path
    team: Path
    outside: Path

    def hostile(self, seed: int, count: int) -> Iterator[str]:
        """So many paths, the same for the same seed: half of them made up, half real ones bent a little."""
        random = Random(seed)
        tops = ["", "", "", "team:", f"{self.root}/", f"{self.team}/", f"{self.outside}/", f"{self.root}2/"]
        for number in range(count):
            if number % 2:
                yield _bent(random, random.choice(tops) + random.choice(_REAL))
            else:
                yield _made_up(random, random.choice([*_BEGINNINGS, *tops]))


def _made_up(random: Random, path: str) -> str:
    for _ in range(random.choice([1, 1, 2, 2, 3, 5, 12])):
        name = random.choice(_NAMES) if random.random() < 0.95 else chr(random.randrange(1, 0xD7FF))
        path += name + random.choice(_SEPARATORS)
    return path * 60 if random.random() < 0.02 else path[:-1] if random.random() < 0.5 else path


def _bent(random: Random, path: str) -> str:
    for _ in range(random.choice([0, 1, 1, 2, 3])):
        at = random.randrange(len(path) + 1)
        boundary = random.choice([place for place, char in enumerate(f"{path}/") if char == "/"])
        path = random.choice(
            [
                path[:boundary] + "/" + random.choice(_NAMES) + path[boundary:],
                path[:at] + random.choice(_SEPARATORS) + path[at:],
                path[:at] + random.choice(_NAMES) + path[at:],
                path[:at] + "".join(f"%{byte:02x}" for byte in path[at : at + 1].encode()) + path[at + 1 :],
                path[:at] + "".join(f"\\x{byte:02x}" for byte in path[at : at + 1].encode()) + path[at + 1 :],
                path + random.choice(["/", "/.", "/..", ".", " ", "\0", "%00", "\n", "/*", ":", "\\", "~"]),
                path.swapcase(),
            ]
        )
    return path


def laid(folder: Path) -> Trap:
    """The trap, laid in a folder."""
    trap = Trap(folder / "root", folder / "team", folder / "outside")
    for made in (trap.outside, trap.root / "a" / "b", trap.root / "a" / "..." / "x ", trap.team, folder / "root2"):
        made.mkdir(parents=True)
    for holder in (trap.outside, folder / "root2", folder):
        (holder / f"{CANARY}.txt").write_text(CANARY)
    (trap.root / "a" / "b" / "c.txt").write_text("fine")
    (trap.team / "t.txt").write_text("fine")
    os.link(trap.root / "a" / "b" / "c.txt", trap.root / "a" / "b" / "hard.txt")
    for name, target in {
        "out": "../outside",
        "out.txt": f"../outside/{CANARY}.txt",
        "absolute": str(trap.outside),
        "inside": "a/b",
        "loop": "loop",
        "nowhere": "gone",
        "magic": "/proc/self/root",
        "self": "/proc/self/fd",
        "up": "..",
        "team": "../team",
        "...": str(trap.outside),
        "\\x2e\\x2e": "..",
        "%2e%2e": "..",
        "x ": "..",
    }.items():
        (trap.root / name).symlink_to(target)
    return trap
