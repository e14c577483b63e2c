"""What ONNX Runtime's exceptions mean: its messages in plain words, and the error of ours that each becomes.

The library raises one exception class a status code, and the status says little: the same lack of memory came
as FAIL with an arena and as RUNTIME_EXCEPTION without one. So the text decides.
"""

from __future__ import annotations

import re
from pathlib import Path

from mdslite.errors import DeadlineExceeded, LoadFailed, MdsliteError, ModelError, OutOfMemory, Unavailable

_LONGEST = 1000  # characters of a foreign message that we pass on

_STATUS = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_NODE = re.compile(
    r"Non-zero status code returned while running (\S+) node\. Name:'([^']*)' Status Message: "
)
_LOADING = re.compile(r"Load model from .*? failed:", re.DOTALL)
# A place in the library's sources, with the C++ signature (or the bare name) of the function there.
_SIGNATURE = (
    r"[^()]*?onnxruntime::[^()\s]*(?:operator\(\))?\((?:[^()]|\([^()]*\))*\)(?: const)?(?: \[with [^\]]*\])?"
)
_SOURCE = re.compile(
    rf"(?:[A-Za-z]:)?(?:[^\s:]*[\\/])?[\w-]+\.(?:cc|cpp|h|hpp|cu|cuh):\d+ (?:{_SIGNATURE}|\w+(?:::\w+)*) ?"
)
_CUDA_PLACE = re.compile(r" ; hostname=.*")
_EXTERNAL_PLACE = re.compile(r' resolved path: "[^"]*"| allowed directory: "[^"]*"')

_NO_MEMORY = re.compile(
    r"Failed to allocate memory|is smaller than requested bytes|out of memory|bad_alloc|_STATUS_ALLOC_FAILED"
    r"|failure 3: the resource allocation failed",
    re.IGNORECASE,
)
_FAILURE = re.compile(r"\b(CUDA|CUBLAS|CUDNN) failure (\d+)")
# CUDA's errors after which its context, and so every session of this process on that GPU, is of no more use.
LOST_CUDA_ERRORS = frozenset(
    {46, 100, 101, 214, 219, 220, 226, 700, 702, 704, 709, 710, 714, 715, 716, 717, 718, 719, 720, 721, 999}
)
_EXPORT_AGAIN = "a file that was cut off, or made for a newer onnxruntime, is mended by exporting it again"
_OLDER = "export it for an older one ({which}), or install a newer onnxruntime: pip install -U onnxruntime"
# What a refused model lacks, by what the library says of it.
_REMEDIES = (
    (
        re.compile(r"No Op registered for|is not a registered function/op|No opset import for domain"),
        "export it with operators that ONNX has at its opset; those of other libraries are not loaded here, "
        "but a Python package may load them: mdslite init NAME",
    ),
    (re.compile(r"till opset \d+"), _OLDER.format(which="opset_version=17 suits nearly all models")),
    (re.compile(r"Unsupported model IR version"), _OLDER.format(which="a lower ir_version")),
    (
        re.compile(r"[Ee]xternal data|External initializer"),
        "put the files with its weights beside it, whole and as they were exported, and deploy that folder",
    ),
)
_LOST_LIBRARY = re.compile(r"(?:CUBLAS|CUDNN)_STATUS_(?:EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)")


def reason(exc: BaseException, *, folder: Path | None = None) -> str:
    """The message without status codes, places in the library's sources, host names and `folder`'s path."""
    text = _CUDA_PLACE.sub("", str(exc))
    text = _EXTERNAL_PLACE.sub("", _LOADING.sub("", _STATUS.sub("", text)))
    text = _SOURCE.sub("", text)
    text = _NODE.sub(lambda found: f"{found[1]} node{found[2] and f' {found[2]!r}'}: ", text)
    if folder is not None:
        text = text.replace(f"{folder}/", "").replace(str(folder), "the model's folder")
    text = " ".join(text.split())
    return text[:_LONGEST] or type(exc).__name__


def run_error(exc: Exception, *, terminated: bool, folder: Path | None = None) -> MdsliteError:
    """The error that a failed run is to its caller."""
    if terminated:
        return DeadlineExceeded("the model's run was stopped at its deadline")
    text = reason(exc, folder=folder)
    if _no_memory(exc):
        return OutOfMemory(f"the model's device has no memory left for this batch: {text}", retry_after_s=1)
    if _device_lost(exc):
        return Unavailable(
            f"the GPU context is lost: {text}",
            hint="CUDA cannot recover inside a process: restart mdslite; if it comes back, see nvidia-smi -q",
        )
    return ModelError(f"the model failed on this input: {text}")


def load_error(exc: Exception, *, model: str, folder: Path | None = None) -> MdsliteError:
    """The error that a failed load is to the apply that asked for it."""
    text = reason(exc, folder=folder)
    if _no_memory(exc):
        return OutOfMemory(f"{model}: the device has no memory left for this model: {text}")
    return LoadFailed(
        f"{model}: onnxruntime refused the model: {text}",
        hint=next((hint for found, hint in _REMEDIES if found.search(text)), _EXPORT_AGAIN),
    )


def _no_memory(exc: Exception) -> bool:
    found = _FAILURE.search(str(exc))
    return isinstance(exc, MemoryError) or _NO_MEMORY.search(str(exc)) is not None or _is(found, "CUDA", 2)


def _device_lost(exc: Exception) -> bool:
    if type(exc).__name__ == "DeviceReset" or _LOST_LIBRARY.search(str(exc)):
        return True
    found = _FAILURE.search(str(exc))
    return found is not None and found[1] == "CUDA" and int(found[2]) in LOST_CUDA_ERRORS


def _is(found: re.Match[str] | None, library: str, code: int) -> bool:
    return found is not None and found[1] == library and int(found[2]) == code
