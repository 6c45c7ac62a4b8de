"""The wire format of Protocol Buffers: as much as it takes to read what the CEL runtime says of an expression. Pure."""

from collections.abc import Iterator


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message by their numbers: whole numbers, and the bytes of texts and inner messages.

    Those of fixed size are left out. Raises ``IndexError`` for a message that ends within a field.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        match tag & 7:  # the wire type
            case 0:
                number, position = _varint(message, position)
                yield tag >> 3, number
            case 2:
                size, position = _varint(message, position)
                yield tag >> 3, message[position : position + size]
                position += size
            case 1:
                position += 8
            case _:
                position += 4


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    number = shift = 0
    while True:
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, position
