"""What torch sees of the machine that it runs on."""

from __future__ import annotations

import torch


def gpu_names() -> tuple[str, ...]:
    """The name of each GPU, as torch has it."""
    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def processor() -> str:
    """By which instructions torch computes on the CPU: the last bits may depend on them."""
    return str(torch.backends.cpu.get_cpu_capability())
