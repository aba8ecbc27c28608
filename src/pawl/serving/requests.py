"""From a body to rows: the forms in which a service is asked, held to the model's columns, and what is wrong with those that do not fit.

msgspec decodes and checks in one pass; only a body that it refuses is looked at again, by Python's own reader, to name each place.
No message repeats a value of the body.
"""

import contextlib
import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import astuple

MAX_ROWS = 1000
PLACES = 10  # that an answer names
LARGEST = 3.4e38  # scikit-learn's trees compute in 32 bits, and fail beyond
ROUNDED = int(LARGEST) + 2**74 - 1  # the last that a double reads as LARGEST: taken, so the documents name it
TEXT = 1000  # characters

TYPES: dict[str, Any] = {
    "number": Annotated[float, Meta(ge=-ROUNDED, le=ROUNDED)],
    # 39.0 too: tables with missing values write it
    "integer": Annotated[float, Meta(ge=-ROUNDED, le=ROUNDED, multiple_of=1)],
    "boolean": bool,
    "category": Annotated[str, Meta(max_length=TEXT)],
}
WANTED = {"number": "a number", "integer": "a whole number", "boolean": "true or false", "category": "a text"}
FIRST = re.compile(rb'\s*\{\s*"(\w+)"\s*:')  # the first name of an object
KINDS, SPLIT = ("dataframe_split", "dataframe_records", "instances"), ("columns", "data", "index")
Rows = list[tuple[Any, ...]]
Place = dict[str, str]


class Refused(Exception):  # noqa: N818 - an answer, not an error of ours
    """A request that is answered with this status, and why: the metrics count by reason."""

    def __init__(self, status: int, reason: str, error: str, places: list[Place] | None = None) -> None:
        super().__init__(error)
        self.status, self.reason, self.error, self.places = status, reason, error, places or []


class Forms:
    """The decoders of one model's requests."""

    def __init__(self, dtypes: Mapping[str, str]) -> None:
        """dtypes: {column: dtype}, in the order in which rows are given."""
        self.dtypes = dict(dtypes)
        names, self.types = list(dtypes), [TYPES[dtype] | None for dtype in dtypes.values()]
        fields = {f"c{number}": name for number, name in enumerate(names)}
        listed = list(zip(fields, self.types, strict=True))
        strict: dict[str, Any] = {"forbid_unknown_fields": True, "frozen": True}
        self.record: Any = msgspec.defstruct("Record", listed, rename=fields, gc=False, **strict)
        self.row: Any = tuple[tuple(self.types)]
        several, cells = Meta(min_length=1, max_length=MAX_ROWS), self.record | self.row
        self.records, self.rows, self.instances = Annotated[list[self.record], several], Annotated[list[self.row], several], Annotated[list[cells], several]  # type: ignore[valid-type,name-defined]  # fmt: skip
        self.features: Any = msgspec.defstruct("Features", [("features", self.rows)], **strict)
        parts: list[Any] = [("columns", list[str]), ("data", msgspec.Raw), ("index", msgspec.Raw, msgspec.Raw())]
        self.split: Any = msgspec.defstruct("Split", parts, **strict)
        self._one, self._many = msgspec.json.Decoder(self.record), msgspec.json.Decoder(self.records)
        self._features: Any = msgspec.json.Decoder(self.features)
        held = zip(KINDS, (self.split, self.records, self.instances), strict=True)
        structs = {kind: msgspec.defstruct(kind, [(kind, content)], **strict) for kind, content in held}
        self._mlflow: dict[str, Any] = {kind: msgspec.json.Decoder(each) for kind, each in structs.items()}

    def predict(self, body: bytes) -> Rows:
        """Return the rows of /predict: a record, a list of records, or `features`: rows in the order of the schema."""
        keys = len(self.dtypes)
        try:
            start = body[:1] if body[:1] in b"{[" else body.lstrip()[:1]
            if start == b"[":
                found = self._many.decode(body)
                self._once(body, keys * len(found))
                return [astuple(each) for each in found]
            if "features" not in self.dtypes and _first(body) == "features":
                rows = self._features.decode(body).features
                self._once(body, 1)
                return rows  # type: ignore[no-any-return]  # the struct was made at run time
            record = self._one.decode(body)
            self._once(body, keys)
            return [astuple(record)]
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise self._explained(body, error, self._of_predict) from error

    def mlflow(self, body: bytes) -> Rows:
        """Return the rows of /invocations: `dataframe_split`, `dataframe_records`, or `instances`. MLflow's client writes NaN where a number is missing."""
        if b"NaN" in body:
            with contextlib.suppress(ValueError, RecursionError):  # what else is wrong is found below
                body = json.dumps(_read(body, parse_constant=_null)).encode()
        kind = first if (first := _first(body)) in self._mlflow else "dataframe_split"
        try:
            found = getattr(self._mlflow[kind].decode(body), kind)
            if kind != "dataframe_split":
                return self._instances(body, found)
            self._once(body, 4 if bytes(found.index) else 3)
            if sorted(found.columns) != sorted(self.dtypes):
                raise msgspec.ValidationError("other columns")
            order = [found.columns.index(name) for name in self.dtypes]
            names = list(self.dtypes)
            types = [self.types[names.index(name)] for name in found.columns]
            rows = msgspec.json.decode(found.data, type=Annotated[list[tuple[tuple(types)]], Meta(min_length=1, max_length=MAX_ROWS)])  # fmt: skip
            return rows if len(order) == 1 else [itemgetter(*order)(row) for row in rows]
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise self._explained(body, error, self._of_mlflow) from error

    def kserve(self, body: bytes) -> Rows:
        """Return the rows of KServe's v1 protocol: `instances`, each a record or a row."""
        try:
            return self._instances(body, self._mlflow["instances"].decode(body).instances)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise self._explained(body, error, lambda given: self._of_mlflow(given, ("instances",))) from error

    def _instances(self, body: bytes, found: list[Any]) -> Rows:
        self._once(body, 1 + len(self.dtypes) * sum(type(each) is not tuple for each in found))
        return [each if type(each) is tuple else astuple(each) for each in found]

    def _once(self, body: bytes, keys: int) -> None:
        """Raise unless every key stands once: msgspec takes the last of several. One colon for each key: more may be within texts."""
        if body.count(b":") > keys:
            _read(body)

    def _explained(self, body: bytes, error: Exception, places: Callable[[Any], Iterator[Place]]) -> Refused:
        """Return the refusal of a body: 400 if it is no JSON, else 422 with at most ten places."""
        try:
            given = _read(body)
        except Refused as twice:
            return twice
        except RecursionError:
            return Refused(400, "malformed", "the body is not JSON that is read here: it is nested too deeply")
        except UnicodeDecodeError:
            return Refused(400, "malformed", "the body is not UTF-8")
        except json.JSONDecodeError as found:
            if not body.strip():
                return Refused(400, "malformed", "the body is empty")
            where = f"line {found.lineno}, column {found.colno}"
            return Refused(400, "malformed", f"the body is not JSON: {found.msg.lower()} ({where})")
        found_places = [each for each, _ in zip(places(given), range(PLACES), strict=False)]
        return Refused(422, "unfit", "the request does not fit the model", found_places or [_of_msgspec(error)])

    def _of_predict(self, given: Any) -> Iterator[Place]:
        if isinstance(given, dict) and "features" in given and "features" not in self.dtypes:
            yield from (_extra(key, (), "", "not taken beside features") for key in given if key != "features")
            yield from self._of_rows(given["features"], "features", records=False)
        elif isinstance(given, list):
            yield from self._of_rows(given, "", rows=False)
        elif isinstance(given, dict) and (not given or given.keys() & self.dtypes):
            yield from self._of_record(given, "")
        else:
            forms = 'a record, a list of records, or {"features": [rows]} is needed'
            yield {"field": "body", "problem": f"{forms}; /invocations takes MLflow's forms"}
            yield from (_extra(key, self.dtypes, "") for key in (given if isinstance(given, dict) else ()))

    def _of_mlflow(self, given: Any, kinds: tuple[str, ...] = KINDS) -> Iterator[Place]:
        found = [key for key in given if key in kinds] if isinstance(given, dict) else []
        if len(found) != 1:
            wanted = f"one of {', '.join(kinds)}" if len(kinds) > 1 else kinds[0]
            yield {"field": "body", "problem": f"{wanted} is needed"}
        if isinstance(given, dict):
            yield from (_extra(key, kinds, "", "not taken here") for key in given if key not in kinds)
        if len(found) != 1:
            return
        kind, content = found[0], given[found[0]]
        if kind != "dataframe_split":
            yield from self._of_rows(content, kind, rows=kind == "instances")
            return
        parts = content if isinstance(content, dict) else {}
        yield from (_extra(key, SPLIT, kind, "not taken here") for key in parts if key not in SPLIT)
        columns = parts.get("columns")
        if not isinstance(columns, list) or not all(isinstance(each, str) for each in columns):
            yield {"field": f"{kind}.columns", "problem": "a list of the names of all columns is needed"}
            return
        yield from (_extra(each, self.dtypes, f"{kind}.columns") for each in columns if each not in self.dtypes)
        said = {0: "is missing", 1: ""}
        wrong = [(name, said.get(columns.count(name), "is there twice")) for name in self.dtypes]
        yield from ({"field": f"{kind}.columns", "problem": f"{name} {why}"} for name, why in wrong if why)
        yield from self._of_rows(parts.get("data"), f"{kind}.data", records=False, columns=columns)

    def _of_rows(
        self, given: Any, where: str, *, records: bool = True, rows: bool = True, columns: list[str] | None = None
    ) -> Iterator[Place]:
        if not isinstance(given, list) or not 1 <= len(given) <= MAX_ROWS:
            wanted = f"a list of 1 to {MAX_ROWS:,} {'records' if records else 'rows'} is needed"
            found = f", not of {len(given):,}" if isinstance(given, list) else ""
            yield {"field": where or "body", "problem": wanted + found}
            return
        names, order = columns or list(self.dtypes), "columns" if columns else "/version's features"
        for number, each in enumerate(given):
            place = f"{where}[{number}]"
            if records and isinstance(each, dict):
                yield from self._of_record(each, place)
            elif not rows or not isinstance(each, list):
                wanted = "a record is needed: {column: value, ...}" if records else "a row is needed: [value, ...]"
                yield {"field": place, "problem": wanted}
            elif len(each) != len(names):
                yield {"field": place, "problem": f"a row of {len(names)} values is needed, in the order of {order}"}
            else:
                for name, cell in zip(names, each, strict=True):
                    yield from self._of_cell(name, cell, f"{place}.{name}")

    def _of_record(self, record: dict[str, Any], where: str) -> Iterator[Place]:
        dot = "." if where else ""
        yield from (_extra(key, self.dtypes, where) for key in record if key not in self.dtypes)
        for name in self.dtypes:
            if name in record:
                yield from self._of_cell(name, record[name], f"{where}{dot}{name}")
            else:
                yield {"field": f"{where}{dot}{name}", "problem": "missing: give null where the value is not known"}

    def _of_cell(self, name: str, cell: Any, where: str) -> Iterator[Place]:
        dtype = self.dtypes.get(name)
        if cell is not None and dtype is not None and (problem := _unfit(cell, dtype)):
            yield {"field": where, "problem": problem}


def _first(body: bytes) -> str:
    return found[1].decode(errors="replace") if (found := FIRST.match(body)) else ""


def _unfit(cell: Any, dtype: str) -> str:
    """Return what is wrong with a value that is not null; nothing if it fits."""
    right = {"boolean": isinstance(cell, bool), "category": isinstance(cell, str)}
    if not right.get(dtype, isinstance(cell, (int, float)) and not isinstance(cell, bool)):
        kinds = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list"}
        return f"{WANTED[dtype]} or null is needed, not {kinds.get(type(cell), 'an object')}"
    if isinstance(cell, str):
        if len(cell) > TEXT:
            return f"at most {TEXT:,} characters are taken"
        halved = any("\ud800" <= each <= "\udfff" for each in cell)
        return "not valid Unicode: half of a surrogate pair" if halved else ""
    if dtype == "boolean":
        return ""
    if cell != cell:  # noqa: PLR0124 - NaN alone differs from itself
        return "NaN is not JSON: give null where the value is not known"
    if abs(cell) > LARGEST:
        return f"a finite number is needed, within ±{LARGEST:g}"
    return "a whole number or null is needed" if dtype == "integer" and cell != int(cell) else ""


def _extra(key: str, known: Iterable[str], where: str, problem: str = "no such column") -> Place:
    close = difflib.get_close_matches(key[:100], known, 1)
    shown = key[:100].encode(errors="replace").decode()
    return {"field": f"{where}.{shown}" if where else shown, "problem": problem + (f"; {close[0]}?" if close else "")}


def _of_msgspec(error: Exception) -> Place:
    words, _, where = str(error).partition(" - at `$")
    return {"field": where.rstrip("`").lstrip(".")[:200] or "body", "problem": words[:200]}


def _null(constant: str) -> None:
    if constant != "NaN":
        raise ValueError


def _read(body: bytes, **options: Any) -> Any:
    """Return what Python's own reader makes of a body; numbers are all float, since int has no end. Raise Refused for a name that is given twice."""
    return json.loads(body.decode(), object_pairs_hook=_pairs, parse_int=float, **options)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        place = {"field": key[:100].encode(errors="replace").decode(), "problem": "it is given twice"}
        raise Refused(422, "unfit", "the request does not fit the model", [place])
    return found
