"""What a PyTorch file holds, looked at before PyTorch may open it: TorchScript, an exported program, or what
is never loaded. A file of either kind can be made to run code of its maker's choice in whatever opens it:

* torch.save writes pickles, and torch.export.load falls back to loading the ones inside an archive freely;
* an exported program names each function that it calls, and PyTorch takes `torch.os.system` for one;
* its symbolic sizes are evaluated as Python, its names are written into Python source;
* TorchScript may call operators that read and write files.

So archives are read with `zipfile` and `json` first, and everything that is not known to be harmless is
refused. This process may still crash on what follows: that is what the disposable child is for.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from mdslite.errors import LoadFailed, quoted
from mdslite.runtimes.kinds import TORCH_SUFFIXES

Form = Literal["script", "export"]

HOW_TO_EXPORT = (
    "write the model with torch.export: program = torch.export.export(model.eval(), (example,), "
    'dynamic_shapes=({0: torch.export.Dim("rows")},)); torch.export.save(program, "model.pt2")'
)
_END_BYTES = 22  # of the record that ends an archive without a comment
_MOST_BYTES = 512 << 20  # of a text inside an archive
_STRANGE = "was not written by PyTorch"
_EXPECTED = "expected a file of torch.export.save or torch.jit.save"
_NOT_LOADED = "which can run any code and is never loaded"

# What reading an archive raises that is no archive, or whose texts are not what they should be.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError, ValueError, LookupError,
    TypeError, AttributeError, RecursionError,
)  # fmt: skip
_PROGRAM = "models/model.json"
# The members of an exported program's archive. Compiled code (data/aotinductor/) and objects are not among
# them.
_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/[\w.]+|extra/.*|models/model\.json"
    r"|data/weights/(?:weight_\d+|model_weights_config\.json)"
    r"|data/constants/(?:tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
)
_FILE_OPERATORS = re.compile(rb"\b(?:torch\.(?:save|from_file)|ops\.\w+\.\w*file\w*)\(")

_NAME = re.compile(r"[A-Za-z_]\w*")
_PATH = re.compile(r"[^\"'\\\s\x00-\x1f]*")  # of a parameter: module.0.weight
_OPERATOR = re.compile(
    r"torch\.ops\.\w+\.(?!\w*file)(?!__(?!(?:and|or|xor|lshift|rshift|iand|ior|ixor)__)).\w*\.(?!__)\w+"
    r"|torch\.ops\.higher_order\.(?!.*triton)[a-z]\w*"
    r"|_operator\.(?:add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|getitem|lt|le|eq|ne|ge|gt|and_|or_|not_)"
    r"|math\.[a-z]\w*|torch\.(?:_sym_sqrt|sym_\w+)"
)
# One token of a symbolic expression, as SymPy's srepr writes it. A quoted one is a name or a number.
_TOKEN = re.compile(
    r"\s*(?:'(?:[A-Za-z_]\w*|[-+]?[\d.]+(?:[eE][-+]?\d+)?)'|(?P<word>[A-Za-z_]\w*)"
    r"|\d[\d.]*(?:[eE][-+]?\d+)?|[-+*/%(),=<>!])"
)
_SYMBOL = re.compile(r"[suz]f?\d+")
_WORDS = frozenset(
    {
        "Abs", "Add", "And", "CeilDiv", "CeilToInt", "CleanDiv", "Eq", "Equality", "False", "Float",
        "FloatPow", "FloatTrueDiv", "FloorDiv", "FloorToInt", "Ge", "GreaterThan", "Gt", "Identity",
        "IntTrueDiv", "Integer", "IsNonOverlappingAndDenseIndicator", "LShift", "Le", "LessThan", "Lt", "Max",
        "Min", "Mod", "ModularIndexing", "Mul", "Ne", "Not", "Or", "Pow", "PowByNatural", "PythonMod",
        "RShift", "Rational", "RoundToInt", "StrictGreaterThan", "StrictLessThan", "Symbol", "ToFloat",
        "True", "TruncToFloat", "TruncToInt", "Unequality", "Where", "ceiling", "false", "floor", "int_oo",
        "integer",
        "negative", "nonnegative", "nonzero", "oo", "positive", "precision", "real", "sqrt", "true", "zero",
    }
)  # fmt: skip


def find_model(path: Path) -> Path:
    """Find the model's file at `path`: itself, or the one that a folder holds.

    :raises LoadFailed: no model there, or several and none called model
    """
    if not path.is_dir():
        return path
    found = sorted(one for one in path.iterdir() if one.suffix.lower() in TORCH_SUFFIXES)
    named = [one for one in found if one.stem == "model"]
    for chosen in (found, named):
        if len(chosen) == 1:
            return chosen[0]
    names = ", ".join(one.name for one in found[:5]) or "no .pt, .pth, .ts or .pt2 file"
    raise LoadFailed(
        f"the folder holds {names}: expected one PyTorch file, or one called model.pt2",
        hint="name the file itself instead of its folder, or call it model.pt2",
    )


def check_file(model: Path, *, load_plain: Callable[[io.BytesIO], Any]) -> Form:
    """Tell a file's form, and refuse what may not be loaded. `load_plain` loads a pickle of plain tensors and
    raises on any other.

    :raises LoadFailed: a pickle, damaged, or with code of its own
    """
    try:
        with zipfile.ZipFile(model) as archive:
            _check_plain(archive, model)
            return _check_archive(archive, model.name, load_plain)
    except _DAMAGE as exc:
        with model.open("rb") as file:
            start = file.read(4)
        if start.startswith(b"\x80"):
            what = f"is a pickle of torch.save, {_NOT_LOADED}"
            raise LoadFailed(f"{model.name} {what}", hint=HOW_TO_EXPORT) from exc
        what = "is damaged or cut off" if start.startswith(b"PK") else _STRANGE
        raise LoadFailed(f"{model.name} {what}: {_EXPECTED}") from exc


def read_text(model: Path, name: str) -> bytes | None:
    """A small member of an archive, None if there is no such one."""
    with zipfile.ZipFile(model) as archive:
        for info in archive.infolist():
            if info.filename.partition("/")[2] == name:
                return _read(archive, info)
    return None


def _check_plain(archive: zipfile.ZipFile, model: Path) -> None:
    """See to it that PyTorch's reader of archives finds the same in it as Python's.

    :raises BadZipFile: bytes before or after it, or a name twice
    """
    infos = archive.infolist()
    with model.open("rb") as file:
        file.seek(-_END_BYTES, io.SEEK_END)
        end = file.read()
    names = {info.filename.lower() for info in infos}
    if end[:4] != b"PK\5\6" or end[-2:] != b"\0\0" or len(names) < len(infos):
        raise zipfile.BadZipFile("not as PyTorch writes it")
    if min((info.header_offset for info in infos), default=0) != 0:
        raise zipfile.BadZipFile("something stands before it")


def _check_archive(archive: zipfile.ZipFile, name: str, load_plain: Callable[[io.BytesIO], Any]) -> Form:
    members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    if "archive_format" in members:
        _check_export(archive, members, name, load_plain)
        return "export"
    if "constants.pkl" in members and "data.pkl" in members:
        _check_script(archive, members, name)
        return "script"
    if "data.pkl" in members:
        raise LoadFailed(
            f"{name} is a pickle of torch.save (a module or its weights), {_NOT_LOADED}", hint=HOW_TO_EXPORT
        )
    if any(info.filename == "serialized_exported_program.json" for info in archive.infolist()):
        raise LoadFailed(
            f"{name} was exported by a PyTorch older than 2.8, whose files are not read",
            hint="export the model again with the present PyTorch",
        )
    raise LoadFailed(f"{name} {_STRANGE}: {_EXPECTED}")


def _check_script(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str) -> None:
    for member, info in members.items():
        if member.lower().startswith("code/") and member.lower().endswith(".py"):
            found = _FILE_OPERATORS.search(_read(archive, info))
            if found is not None:
                operator = found[0].decode().rstrip("(")
                raise LoadFailed(f"{name} calls {operator}: a served model may not read or write files")


def _check_export(
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    name: str,
    load_plain: Callable[[io.BytesIO], Any],
) -> None:
    if _PROGRAM not in members:
        raise LoadFailed(
            f"{name} holds no exported program", hint="compiled packages are not served; " + HOW_TO_EXPORT
        )
    for member, info in members.items():
        if not _MEMBERS.fullmatch(member):
            raise LoadFailed(
                f"{name} holds {member}: compiled code and Python objects are never loaded",
                hint=HOW_TO_EXPORT,
            )
        content = _read(archive, info) if member.endswith(".json") else b""
        if member == _PROGRAM:
            _check_program(json.loads(content), name)
        elif member.endswith("_config.json"):
            folder = member.rpartition("/")[0]
            for payload in _pickles(json.loads(content)):
                _check_pickle(archive, members.get(f"{folder}/{payload}"), name, load_plain)
        elif member.endswith(".pt"):
            _check_pickle(archive, info, name, load_plain)


def _check_pickle(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo | None,
    name: str,
    load_plain: Callable[[io.BytesIO], Any],
) -> None:
    content = archive.read(info) if info is not None else b""
    if not content:
        return
    try:
        load_plain(io.BytesIO(content))
    except Exception as exc:  # whatever an unpickler may raise on what was made to break it
        raise LoadFailed(
            f"{name} holds a pickle that is more than plain tensors, {_NOT_LOADED}", hint=HOW_TO_EXPORT
        ) from exc


def _pickles(config: Any) -> Iterator[str]:
    """The files of a table of weights or constants that are pickles."""
    for payload in config["config"].values():
        if payload.get("use_pickle"):
            yield payload["path_name"]


def _check_program(node: Any, name: str) -> None:
    """Walk through a program's JSON: what becomes Python has to be what the exporter writes."""
    pending = [node]
    while pending:
        one = pending.pop()
        if isinstance(one, list):
            pending += one
        if not isinstance(one, dict):
            continue
        for key, value in one.items():
            if isinstance(value, dict | list):
                if key != "metadata":
                    pending.append(value)
            elif isinstance(value, str) and not _harmless(key, value):
                raise LoadFailed(f"{name} holds {quoted(value)} as {key}: the exporter writes no such thing")


def _harmless(key: str, text: str) -> bool:
    match key:
        case "expr_str":
            return _is_expression(text)
        case "target" | "as_operator":
            return _OPERATOR.fullmatch(text) is not None
        case "name" | "as_name":
            return not text or _NAME.fullmatch(text) is not None
        case "parameter_name" | "buffer_name" | "tensor_constant_name" | "custom_obj_name" | "fqn":
            return _PATH.fullmatch(text) is not None
    return True


def _is_expression(text: str) -> bool:
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            return False
        word = token["word"]
        if word is not None and word not in _WORDS and not _SYMBOL.fullmatch(word):
            return False
        at = token.end()
    return True


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > _MOST_BYTES:
        raise LoadFailed(
            f"{info.filename} in the file is {info.file_size >> 20} MiB of text: that is no model"
        )
    return archive.read(info)
