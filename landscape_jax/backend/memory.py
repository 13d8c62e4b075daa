"""How much memory is free, and how much a compiled program takes.

Why: accelerators tell both through JAX. A CPU does not tell how much is free, so the operating system is asked; and some
backends don't tell what a program takes.
Found with: jaxlib 0.10.
No longer needed when: `jax.local_devices()[0].memory_stats()` on a CPU has the entry "bytes_limit".
"""

import os

import jax

UNKNOWN = 1 << 32  # bytes assumed to be free where nobody tells


def free_bytes() -> int:
    """Bytes free on a device; on a CPU, of the machine."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # a system that does not tell
        return UNKNOWN


def program_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Bytes that a compiled program takes for temporaries and outputs; None where the backend does not tell."""
    memory = compiled.memory_analysis()
    return None if memory is None else memory.temp_size_in_bytes + memory.output_size_in_bytes
