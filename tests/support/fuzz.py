"""HTTP messages that are not quite right."""

import random

PARTS = [
    b"\r\n",
    b"\n",
    b"\0",
    b"\xff",
    b" ",
    b"%00",
    b"%2e%2e/",
    b"../",
    b"?",
    b"#",
    b"&pid=",
    b":",
    b"-1",
    b"9" * 400,
]
PARTS += [
    b"chunked",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"A" * 70_000,
    b"X: y\r\n" * 200,
    b"HTTP/9.9",
]


def mutated(messages: list[bytes], generator: random.Random) -> bytes:
    """A message with a few bytes removed, changed, repeated or put in."""
    data = bytearray(generator.choice(messages))
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(data) + 1)
        end = min(len(data), at + generator.choice((1, 1, 4, 30)))
        kind = generator.randrange(5)
        if kind == 0:
            del data[at:end]
        elif kind == 1:
            data[at:at] = generator.choice(PARTS)
        elif kind == 2:
            data[at:end] = generator.randbytes(end - at)
        elif kind == 3:
            data[at:at] = data[at:end] * 3
        else:
            del data[at:]
        if not data:
            break
    return bytes(data)
