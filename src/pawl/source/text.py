"""Text files as batches of strings: any encoding, separator and quoting; what cannot be read is refused with its line."""

import csv
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from typing import Any, NoReturn

from pawl import paths
from pawl.config import Csv
from pawl.problem import Problem
from pawl.source.files import File

BLOCK = 1 << 20  # bytes


def read_text(file: File, options: Csv) -> Iterator[Any]:
    """Yield pyarrow.RecordBatch; raise Problem for rows of another width, open quotes, bytes that are not of the encoding."""
    import pyarrow as pa
    import pyarrow.csv as pacsv

    names, above = (list(options.names), 0) if options.names else _header(file, options)
    where, fix = f"{file.name}, line 1", "correct the header, or ingest.csv.names in params.yaml"
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Problem(f"the header names {', '.join(map(repr, twice))} more than once", where, fix)
    if "" in names:
        index = "" if names[0] else "pandas' index: write the file with index=False; or "
        raise Problem(f"column {names.index('') + 1} has no name", where, index + fix)
    odd: list[tuple[int | None, int]] = []

    def note(row: Any) -> str:
        odd.append((row.number, row.actual_columns))
        return "skip"

    read = pacsv.ReadOptions(column_names=names, skip_rows_after_names=above, block_size=8 * BLOCK, use_threads=False)
    quoted = {"quote_char": options.quote or False, "newlines_in_values": bool(options.quote)}
    parse = pacsv.ParseOptions(delimiter=options.separator, invalid_row_handler=note, **quoted)
    convert = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    try:
        with _Text(file, options) as text:
            for batch in pacsv.open_csv(pa.PythonFile(text, mode="r"), read, parse, convert):
                yield _cells(batch, options)
            if text.quotes % 2:
                what = f"{file.name} has a quote that is not closed: {text.quotes} of {options.quote} in all"
                fix = 'close it; or, if it is an ordinary character there, set ingest.csv.quote: ""'
                raise Problem(what, file.name, fix)
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            return
        fix = "look for a quote that is not closed; ingest.csv in params.yaml sets separator and quote"
        raise Problem(f"{file.name} cannot be read as a table: {first_line(error)}", file.name, fix) from error
    if odd:
        shown = "; ".join(f"row {row} has {columns}" if row else f"a row has {columns}" for row, columns in odd[:5])
        where = f"{file.name}, row {odd[0][0]}" if odd[0][0] else file.name
        fix = "repair the rows, or correct ingest.csv (separator, quote, comment, names) in params.yaml"
        raise Problem(f"{len(odd)} rows of {file.name} do not have {len(names)} columns: {shown}", where, fix)


def first_line(error: object) -> str:
    """Return the first line of a library's message."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def _header(file: File, options: Csv) -> tuple[list[str], int]:
    """Return the names, and how many rows end with the header: it may follow blank lines."""
    with _Text(file, options) as text:
        head = io.StringIO(text.read(BLOCK).decode(errors="replace"), newline="")
    quoting: dict[str, Any] = {"quotechar": options.quote} if options.quote else {"quoting": csv.QUOTE_NONE}
    rows = enumerate(csv.reader(head, delimiter=options.separator, **quoting), 1)
    try:
        above, row = next(((number, row) for number, row in rows if row), (0, []))
    except csv.Error as error:
        fix = "look for a quote that is not closed there"
        raise Problem(f"the header cannot be read: {error}", f"{file.name}, line 1", fix) from error
    names = [name.strip() if options.trim else name for name in row]
    if not names:
        raise Problem(f"{file.name} is empty", file.name, "check the file, or ingest.source in params.yaml")
    if len(names) == 1 and (other := next((mark for mark in ";\t|," if mark in names[0]), None)):
        what = f"{file.name} has one column with {options.separator!r} as separator"
        raise Problem(what, f"{file.name}, line 1", f"set ingest.csv.separator: {json.dumps(other)}")
    return names, above


def _cells(batch: Any, options: Csv) -> Any:
    """Return the batch with cells trimmed and decimal commas as points if asked for, and missing markers as null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = pa.array(options.missing, pa.string())
    columns = [pc.utf8_trim_whitespace(column) if options.trim else column for column in batch.columns]
    if options.decimal == ",":
        columns = [pc.replace_substring_regex(column, r"^([+-]?\d*),(\d+)$", r"\1.\2") for column in columns]
    cells = [pc.if_else(pc.is_in(column, missing), None, column) for column in columns]
    return pa.RecordBatch.from_arrays(cells, names=batch.schema.names)


class _Text(io.RawIOBase):
    """A text file's bytes as UTF-8, unpacked, without comment lines. `quotes` counts quote marks on the way."""

    def __init__(self, file: File, options: Csv) -> None:
        import fsspec

        self.file, self.options, self.rest, self.line, self.quotes = file, options, b"", 0, 0
        encoding = "utf-8-sig" if options.encoding.lower() in {"utf-8", "utf8"} else options.encoding
        stream = fsspec.open(str(file.path), "rb", compression="infer").open()
        try:
            self.text = io.TextIOWrapper(stream, encoding=encoding, newline="")
        except LookupError as error:
            stream.close()
            where, fix = f"{paths.PARAMS}: ingest.csv.encoding", "utf-8, latin-1, cp1252, utf-16 ..."
            raise Problem(f"no encoding is called {options.encoding}", where, fix) from error

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if hasattr(self, "text"):
            self.text.close()
        super().close()

    def read(self, size: int = -1) -> bytes:
        while not 0 <= size <= len(self.rest):
            lines = self._lines()
            if not lines:
                break
            self.rest += "".join(self._kept(lines)).encode()
        end = len(self.rest) if size < 0 else size
        taken, self.rest = self.rest[:end], self.rest[end:]
        return taken

    def _kept(self, lines: list[str]) -> Iterator[str]:
        """Yield lines that are data; what looks like a comment within quotes is."""
        mark, quote = self.options.comment, self.options.quote
        for line in lines:
            if not (mark and line.startswith(mark) and self.quotes % 2 == 0):
                self.quotes += line.count(quote) if quote else 0
                yield line if line.endswith(("\n", "\r")) else line + "\n"

    def _lines(self) -> list[str]:
        try:
            lines = self.text.readlines(BLOCK)
        except UnicodeError:
            self._refuse_encoding()
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            what = f"{self.file.name} cannot be unpacked: {first_line(error)}"
            raise Problem(what, self.file.name, "fetch or write it again") from error
        if number := next((number for number, line in enumerate(lines, self.line + 1) if "\0" in line), None):
            self._refuse("holds a NUL byte", number, "it is no text, or UTF-16: set ingest.csv.encoding: utf-16")
        self.line += len(lines)
        return lines

    def _refuse_encoding(self) -> NoReturn:
        """Find the line: a reader in blocks does not know it."""
        fix = "set ingest.csv.encoding in params.yaml, for example latin-1 or cp1252"
        self.text.buffer.seek(0)
        for number, line in enumerate(self.text.buffer, 1):
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                self._refuse("is UTF-16", 1, "set ingest.csv.encoding: utf-16")
            try:
                line.decode(self.options.encoding)
            except UnicodeDecodeError as error:
                self._refuse(f"is not {self.options.encoding} at byte 0x{line[error.start]:02x}", number, fix)
            except UnicodeError:
                break
        self._refuse(f"is not {self.options.encoding}", self.line + 1, fix)

    def _refuse(self, what: str, line: int, fix: str) -> NoReturn:
        raise Problem(f"{self.file.name} {what}", f"{self.file.name}, line {line}", fix)
