"""Free memory, and that of a program."""

import jax
import jax.numpy as jnp

from landscape_jax.backend import memory


def test_memory_is_told_in_bytes():
    assert memory.free_bytes() > 2**20
    compiled = jax.jit(lambda x: jnp.stack([x, jnp.cos(x)])).lower(jnp.ones(1000)).compile()
    assert memory.program_bytes(compiled) >= 8000


def test_a_device_that_tells_is_believed_and_a_system_that_does_not_is_guessed(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 10, "bytes_in_use": 3}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    assert memory.free_bytes() == 7
    monkeypatch.setattr(Device, "memory_stats", lambda self: None)
    monkeypatch.delattr(memory.os, "sysconf")
    assert memory.free_bytes() == memory.UNKNOWN
