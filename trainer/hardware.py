"""The machine a run finds itself on."""

# Torch leaves parts of its interface untyped.
# pyright: reportUnknownMemberType=false

import ctypes
import platform
from typing import Final

import torch

from trainer.cores import cores
from trainer.errors import ConfigError

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""As in glibc's malloc.h; see man 3 mallopt."""


def prepare() -> None:
    """Set torch up for a training, the same on every machine of a kind."""
    _keep_what_is_freed()
    # Late in a training many gradients are denormal, which a CPU multiplies up to 30 times slower.
    # First of all, since torch's other threads take this over from the one that starts them.
    torch.set_flush_denormal(True)
    torch.set_num_threads(cores())
    # On a GPU the gradient of a max-pool may come in any order; torch then warns instead.
    torch.use_deterministic_algorithms(mode=True, warn_only=torch.cuda.is_available())
    # It would also write NaN into all memory that is about to be written: a help against code that
    # reads it before, and up to a tenth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue] - torch sets it up by hand


def _keep_what_is_freed() -> None:
    """Have malloc hand a step's large tensors out again in the next.

    By default it returns them to the kernel, which clears each page before it gives it back: up to
    a tenth of a step. Other C libraries than glibc are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def choose_device(asked: str) -> torch.device:
    """Find the device that a config asks for."""
    found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        raise ConfigError("device must be auto or cpu where torch finds no GPU, got cuda")
    return torch.device("cuda" if found and asked != "cpu" else "cpu")


def number_format(device: torch.device) -> torch.dtype:
    """Choose what convolutions multiply in: never by a timing, which might come out otherwise."""
    if device.type == "cuda":
        # What older ones emulate, they multiply slower than float32.
        bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = torch.cpu.get_capabilities()
        bfloat16 = bool(native.get("avx512_bf16") or native.get("amx_bf16"))
    return torch.bfloat16 if bfloat16 else torch.float32


def describe(device: torch.device) -> dict[str, str | int]:
    """Say what the seconds of a run were measured on, and what its weights depend on."""
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "number_format": str(number_format(device)).removeprefix("torch."),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - no folder in sight
            names = (
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            )
            return next(names, "")
    except OSError:
        return platform.processor()
