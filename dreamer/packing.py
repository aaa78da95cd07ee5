"""An episode's pictures in blocks, packed without loss; each block is unpacked by itself.

The first picture is a block by itself and the dictionary of the others, which hold BLOCK_STEPS
pictures each. So a still background costs almost nothing even in short blocks, and a window touches
few pictures that it does not need. LZ4 takes 10 to 40 % more room than zstandard, least where
pictures pack badly, and unpacks two to four times as fast (measured in results/performance.md).

A block ends with a checksum of what comes before it. All functions that unpack raise ValueError for
bytes that are not what was packed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import lz4.block
import numpy as np
import xxhash
import zstandard

BLOCK_STEPS = 10
LEVEL = 6  # of LZ4's slow packing, which leaves unpacking as fast
CHECKSUM_BYTES = 8

Unpack = Callable[[np.ndarray, bytes | memoryview, bytes], None]


def pack(image: np.ndarray) -> Iterator[bytes]:
    """The blocks of an episode's pictures, uint8 [T, 64, 64, 3]."""
    image = np.ascontiguousarray(image, np.uint8)
    yield _pack(image[:1], b"")
    first = image[0].tobytes()
    for at in range(1, len(image), BLOCK_STEPS):
        yield _pack(image[at : at + BLOCK_STEPS], first)


def _pack(image: np.ndarray, first: bytes) -> bytes:
    data = lz4.block.compress(
        image.data.cast("B"),
        mode="high_compression",
        compression=LEVEL,
        store_size=False,
        dict=first,
    )
    return data + xxhash.xxh3_64_digest(data)


def unpack(out: np.ndarray, block: bytes | memoryview, first: bytes) -> None:
    """Fills `out`, uint8 [steps, 64, 64, 3], with a block. `first`: the bytes of the episode's
    first picture, or none for its own block."""
    block = memoryview(block)
    packed, checksum = block[:-CHECKSUM_BYTES], block[-CHECKSUM_BYTES:]
    if xxhash.xxh3_64_digest(packed) != checksum:
        raise ValueError("its checksum differs")
    try:
        data = lz4.block.decompress(packed, uncompressed_size=out.nbytes, dict=first)
    except lz4.block.LZ4BlockError as error:
        raise ValueError(str(error)) from None
    out.data.cast("B")[:] = data  # ValueError for another size


def unpack_zstandard(out: np.ndarray, block: bytes | memoryview, first: bytes) -> None:
    """`unpack` for blocks of earlier runs, packed by zstandard with a checksum of its own."""
    dictionary = zstandard.ZstdCompressionDict(first, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    unpacker = zstandard.ZstdDecompressor(dictionary if first else None)
    try:
        if zstandard.frame_content_size(block) != out.nbytes:  # a lie would ask for any memory
            raise ValueError("another size")
        data = unpacker.decompress(block, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None
    out.data.cast("B")[:] = data  # ValueError for another size
