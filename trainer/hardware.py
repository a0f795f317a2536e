"""The machine a run finds itself on."""

import platform

import torch

from trainer.cores import cores


def number_format() -> torch.dtype:
    """Choose what convolutions multiply in: never by a timing, which might come out otherwise."""
    native = torch.cpu.get_capabilities()
    return torch.bfloat16 if native.get("avx512_bf16") or native.get("amx_bf16") else torch.float32


def describe() -> dict[str, str | int]:
    """Say what the seconds of a run were measured on."""
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": cores(),
        "system": platform.system(),
        "number_format": str(number_format()).removeprefix("torch."),
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
