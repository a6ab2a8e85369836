"""XML of unknown origin, without what makes XML dangerous."""

from __future__ import annotations

from typing import Final
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

MOST_BYTES: Final = 16 * 2**20
_DEEPEST: Final = 32


def parse_xml(data: bytes) -> Element:
    """Return the root element of a document.

    A document type is refused, and with it every entity: nothing is expanded, and no other file is read.

    Parameters
    ----------
    data
        The document, `MOST_BYTES` at most; its declaration says how it is encoded.

    Raises
    ------
    ValueError
        It is too large, no XML, nested too deeply, or has a document type.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES // 2**20} MiB")
    builder = TreeBuilder()
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(f"its elements are nested more than {_DEEPEST} deep")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type (DOCTYPE), which annotations must not have")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"it is not XML ({error})") from error
    except LookupError as error:
        raise ValueError(f"its encoding is not known ({error})") from error
    return builder.close()
