"""Arrays in, `Batches` out: real data sets as (inputs, targets) pairs, and batch orders as pure functions of key and step."""

from landscape_jax.data.batches import epochs, full_batch, minibatch
from landscape_jax.data.digits import digits

__all__ = ["digits", "epochs", "full_batch", "minibatch"]
