"""What a public function expects of its arguments: one check, one wording.

    require("gradient", loss=loss, optimizer=optimizer, batches=batches)

The name of an argument tells its role. The error names the function and the argument, what is expected, what came, and what
to write instead. Nothing is called and nothing is traced, so that a check costs some microseconds.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh

from landscape_jax.types import Batch, Curvature, Dynamics, MatVec, Model, Moment, Observable, Params


class Role(NamedTuple):
    """What fits a role, and what to write where something else came."""

    expects: str
    fits: Callable[[Any], bool]
    instead: Mapping[str, str]  # a kind of value, as `kind` tells it: what to write instead


def require(by: str, **arguments: Any) -> None:
    """Raise `TypeError` unless each argument fits the role that its name says.

    Args:
      by: the function that asks, for the message.
      arguments: what it was given, by role: the names in `ROLES`.
    """
    for name, value in arguments.items():
        role = ROLES[name]
        if role.fits(value):
            continue
        exchanged = [n for n, v in arguments.items() if n != name and not ROLES[n].fits(v) and role.fits(v)]
        came = kind(value)
        remedy = role.instead.get(came) or role.instead.get("else")
        if exchanged:
            remedy = f"{name} and {exchanged[0]} are exchanged: give them by name"
        raise TypeError(f"{by}: {name} must be {role.expects}, but is {described(value)}{f': {remedy}' if remedy else ''}")


def count(by: str, at_least: int | None = 1, **numbers: Any) -> None:
    """Raise unless each is an integer, of Python's or NumPy's, at least so many, and within int32.

    Raises: `TypeError` for what is no integer (1.5, True, "3", an array) or is traced; `ValueError` for what is out of range.
    """
    for name, n in numbers.items():
        if isinstance(n, Tracer):
            raise TypeError(
                f"{by}: {name} is traced, but it is part of the program: pass a Python int, or mark it static "
                "(jax.jit(..., static_argnames=...))"
            )
        if isinstance(n, (bool, np.bool_)) or not isinstance(n, (int, np.integer)):
            raise TypeError(f"{by}: {name} must be an integer, but is {described(n)}: pass a Python int")
        if at_least is not None and n < at_least:
            raise ValueError(f"{by}: {name}={n} must be at least {at_least}")
        if n >= 2**31:
            raise ValueError(f"{by}: {name}={n} does not fit an int32: ask for less than 2³¹ = 2147483648")


def counts(by: str, **sequences: Any) -> None:
    """Raise `TypeError` or `ValueError` unless each is a sequence of integers, all at least 1; it may be empty."""
    for name, numbers in sequences.items():
        if isinstance(numbers, str) or not hasattr(numbers, "__len__"):
            remedy = f": write ({numbers},)" if isinstance(numbers, int) else ""
            raise TypeError(f"{by}: {name} must be a sequence of positive integers, but is {described(numbers)}{remedy}")
        if any(isinstance(n, (bool, np.bool_)) or not isinstance(n, (int, np.integer)) or n < 1 for n in numbers):
            raise ValueError(f"{by}: {name}={tuple(numbers)} must be positive integers")


def number(by: str, more_than: float = -np.inf, at_least: float = -np.inf, **numbers: Any) -> None:
    """Raise unless each is one real number in range; a traced one is taken on trust.

    Raises: `TypeError` for what is no number; `ValueError` for several, for NaN, and for one out of range.
    """
    for name, x in numbers.items():
        if kind(x) not in ("number", "array") or isinstance(x, (bool, complex)):
            raise TypeError(f"{by}: {name} must be one real number, but is {described(x)}")
        if jnp.ndim(x):
            raise ValueError(f"{by}: {name} must be one real number, but is {described(x)}")
        if not isinstance(x, Tracer) and not (float(x) > more_than and float(x) >= at_least):
            bounds = [f"more than {more_than:g}"] * (more_than > -np.inf) + [f"at least {at_least:g}"] * (at_least > -np.inf)
            raise ValueError(f"{by}: {name}={x} must be {' and '.join(bounds) or 'a number'}")


def pair(by: str, batch: Batch) -> tuple[Any, Any]:
    """(inputs, targets) of a batch that must be such a pair. Raises `TypeError` for anything else."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise TypeError(f"{by}: batch must be a pair (inputs, targets), but is {described(batch)}: write (x, y)")
    return batch[0], batch[1]


def product_at(by: str, curvature: Curvature, params: Params, batch: Batch) -> MatVec:
    """curvature(params, batch), which must be a function v ↦ A v. Raises `TypeError` for anything else."""
    matvec = curvature(params, batch)
    if not callable(matvec):
        remedy = "write curvature.hessian(loss) for a loss" if kind(matvec) == "array" else "give one curvature"
        raise TypeError(
            f"{by}: curvature(params, batch) must give a function v -> A v, but gives {described(matvec)}: {remedy}"
        )
    return matvec


def product(by: str, matvec: MatVec) -> MatVec:
    """v ↦ A v as it is, refused where it is no such function, or where A v is not shaped like v."""
    require(by, matvec=matvec)

    def checked(v: Params) -> Params:
        image = matvec(v)
        into, outof = jax.tree.structure(v), jax.tree.structure(image)
        if into != outof or any(jnp.shape(x) != jnp.shape(y) for x, y in zip(*map(jax.tree.leaves, (v, image)), strict=True)):
            raise ValueError(
                f"{by}: matvec(v) must be shaped like v, {_shapes(v)}, but is {_shapes(image)}: "
                "a product takes a vector of the space and gives one"
            )
        return image

    return checked


# ── what came ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def kind(x: Any) -> str:
    """One word for what a value is."""
    if x is None or isinstance(x, (str, bytes)):
        return "nothing" if x is None else "text"
    for word, cls in (("model", Model), ("dynamics", Dynamics), ("observable", Observable), ("moment", Moment)):
        if isinstance(x, cls):
            return word
    if inspect.isclass(x):
        return "class"
    if _is_optimizer(x):
        return "optimizer"
    if _is_key(x):
        return "key"
    if isinstance(x, (int, float, complex, np.generic)):
        return "number"
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return "array"
    if isinstance(x, Mapping):
        return "mapping"
    if isinstance(x, (list, tuple, set)):
        return "sequence"
    if hasattr(x, "apply") and hasattr(x, "init"):
        return "module"
    if callable(x):
        names = _parameters(x)
        return "criterion" if names[:2] == ["outputs", "targets"] else f"function of {len(names)}"
    return "iterator" if hasattr(x, "__next__") or hasattr(x, "__iter__") else "object"


def described(x: Any) -> str:
    """A value in a few words."""
    match kind(x):
        case "nothing":
            return "None"
        case "text" | "number":
            return repr(x) if len(repr(x)) < 60 else f"a {type(x).__name__} of {len(x)} characters"
        case "class":
            return f"the class {x.__name__}, not an instance of it"
        case "model" | "moment" | "dynamics":
            return f"a {type(x).__name__}"
        case "observable":
            return "an Observable"
        case "optimizer":
            return "an optax optimizer"
        case "key":
            return "a PRNG key" if jnp.ndim(x) == 0 else f"an array of PRNG keys, shape {jnp.shape(x)}"
        case "array":
            return f"an array of shape {tuple(x.shape)} and dtype {x.dtype}"
        case "mapping":
            return f"a {type(x).__name__} of {_listed(map(repr, x)) or 'nothing'}"
        case "sequence":
            return f"a {type(x).__name__} of {_listed(_word(y) for y in x) or 'nothing'}"
        case "criterion":
            return f"the criterion {_name(x)}(outputs, targets)"
        case "module" | "iterator" | "object":
            return f"{'an' if type(x).__name__[0] in 'AEIOUaeiou' else 'a'} {type(x).__name__}"
    return f"{_name(x)}({', '.join(_parameters(x, everything=True))})"


def _word(x: Any) -> str:
    came = kind(x)
    return {"nothing": "None", "array": f"{getattr(x, 'dtype', '')}{list(getattr(x, 'shape', ()))}"}.get(came, came)


def _listed(words) -> str:
    words = list(words)
    return ", ".join(words[:4]) + (f", … ({len(words)})" if len(words) > 4 else "")


def _shapes(x: Any) -> str:
    leaves = [
        f"{jax.tree_util.keystr(path)} {tuple(jnp.shape(leaf))}".strip()
        for path, leaf in jax.tree_util.tree_leaves_with_path(x)
        if hasattr(leaf, "shape") or isinstance(leaf, (int, float))
    ]
    return _listed(leaves) or "without arrays"


def _name(fn: Callable) -> str:
    name = getattr(fn, "__name__", None) or getattr(getattr(fn, "func", None), "__name__", None) or type(fn).__name__
    return "a function " if name == "<lambda>" else name


def _parameters(fn: Callable, everything: bool = False) -> list[str]:
    """Names of the arguments that a function must be given, in their order; or of all it takes."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not tell
        return []
    if everything:
        return [p.name for p in parameters]
    several = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [p.name for p in parameters if p.default is p.empty and p.kind not in several]


def _is_key(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _is_callable_tree(x: Any) -> bool:
    """A pytree of arrays that can be called too, such as what `equinox.partition` gives of a network."""
    leaves = jax.tree.leaves(x)
    return kind(x) not in ("model", "module") and bool(leaves) and x is not leaves[0] and all(map(_is_array, leaves))


def _is_array(x: Any) -> bool:
    return hasattr(x, "dtype") and hasattr(x, "shape")


def _is_precision(x: Any) -> bool:
    try:
        with jax.default_matmul_precision(x):
            return True
    except (TypeError, ValueError):
        return False


def _is_optimizer(x: Any) -> bool:
    """An optax transformation, whatever class it has: a pair of functions called init and update."""
    return callable(getattr(x, "init", None)) and callable(getattr(x, "update", None)) and isinstance(x, tuple)


def _takes(n: int) -> Callable[[Any], bool]:
    """Whether a value can be called with n arguments by position, as far as its signature tells."""

    def fits(fn: Any) -> bool:
        if not callable(fn) or inspect.isclass(fn) or kind(fn) in ("model", "module"):
            return False
        try:
            inspect.signature(fn).bind(*range(n))
        except ValueError:  # a builtin that does not tell
            return True
        except TypeError:
            return False
        return True

    return fits


# ── what is expected ──────────────────────────────────────────────────────────────────────────────────────────────────

_NETWORK = "close over the module: lambda params, x: nnx.merge(graph, params)(x), or eqx.combine(params, static) in its place"
_BIND = "bind what else it takes, by functools.partial or a lambda"


def _function(expects: str, n: int, other: Callable[[Any], bool] = lambda x: False, **instead: str) -> Role:
    """The role of a function of n arguments; `other` says what does not fit although it can be called so."""
    takes = _takes(n)
    words = {word.replace("_", " "): told for word, told in instead.items()}
    more = {f"function of {m}": _BIND for m in range(n + 1, 8)}
    return Role(expects, lambda x: takes(x) and not other(x), more | words)


_is_criterion = lambda x: kind(x) == "criterion"  # noqa: E731
_CURVATURE = _function(
    "a curvature, a function (params, batch) -> (v -> A v)",
    2,
    _is_criterion,
    model="write curvature.hessian(losses.mean(model.apply, losses.cross_entropy))",
    function_of_1="a product v -> A v is not yet a curvature: write lambda params, batch: matvec",
    text="write curvature.hessian(loss)",
    number="write curvature.hessian(loss)",
    criterion="write curvature.hessian(losses.mean(apply, criterion))",
    array="write curvature.hessian(loss)",
)
_KEY = Role(
    "one typed PRNG key",
    lambda x: _is_key(x) and jnp.ndim(x) == 0,
    {
        "number": "write jax.random.key(seed)",
        "array": "write jax.random.key(seed), not jax.random.PRNGKey",
        "key": "vmap over several, or take one of them",
        "else": "write jax.random.key(seed)",
    },
)
_DYNAMICS = Role(
    "a Dynamics",
    lambda x: isinstance(x, Dynamics),
    {
        "optimizer": "write dynamics.gradient(loss, optimizer, batches)",
        "function of 2": "write dynamics.gradient(loss, optimizer, batches)",
        "mapping": "observables are the argument after it",
        "else": "write dynamics.gradient(loss, optimizer, batches)",
    },
)
_OBSERVE = Role(
    "a dict of observables by name",
    lambda x: isinstance(x, Mapping),
    {
        "sequence": 'give each a name, {"loss": observe.loss}',
        "observable": 'give it a name, {"loss": observe.loss}',
        "else": 'write {"loss": observe.loss}, or {} for none',
    },
)

ROLES: dict[str, Role] = {
    "loss": _function(
        "a loss, a function (params, batch) -> scalar",
        2,
        _is_criterion,
        model="write losses.mean(model.apply, losses.cross_entropy)",
        module="write losses.mean(module.apply, losses.cross_entropy)",
        criterion="write losses.mean(apply, criterion)",
        function_of_1="if it closes over its data, write lambda params, batch: loss(params)",
    ),
    "apply": _function(
        "a network as a function (params, inputs) -> outputs",
        2,
        _is_criterion,
        model="write model.apply",
        module="write module.apply",
        function_of_1=_NETWORK,
        object=_NETWORK,
        **{"class": _NETWORK},
    ),
    "criterion": _function(
        "a criterion, a function (outputs, targets) -> losses of the examples",
        2,
        text="write losses.cross_entropy, or losses.square",
        nothing="write losses.cross_entropy, or losses.square",
    ),
    "curvature": _CURVATURE,
    "matvec": _function(
        "the product of a matrix, a function v -> A v",
        1,
        function_of_2="give the product at a point: curvature(params, batch)",
        array="write lambda v: A @ v",
    ),
    "batches": _function(
        "a function (key, step) -> batch",
        2,
        sequence="write data.full_batch(arrays), or data.minibatch(arrays, batch_size)",
        array="write data.full_batch(array), or data.minibatch(array, batch_size)",
        mapping="write data.full_batch(arrays), or data.minibatch(arrays, batch_size)",
        nothing="where the loss needs none, write lambda key, step: None",
        iterator="a compiled loop can't read an iterator: stack the data, and write data.minibatch(arrays, batch_size)",
        function_of_0="a compiled loop can't read an iterator: stack the data, and write data.minibatch(arrays, batch_size)",
    ),
    "optimizer": Role(
        "an optax transformation",
        _is_optimizer,
        {
            "number": "write optax.sgd(learning_rate)",
            "text": "write optax.sgd(learning_rate)",
            "function of 1": "call it: optax.sgd(learning_rate)",
            "sequence": "write optax.chain(*optimizers)",
            "object": "optax.MultiSteps has .gradient_transformation()",
            "else": "write optax.sgd(learning_rate)",
        },
    ),
    "dynamics": _DYNAMICS,
    "inner": _DYNAMICS,
    "observe": _OBSERVE,
    "key": _KEY,
    "params": Role(
        "a pytree of float arrays",
        lambda x: kind(x) in ("array", "mapping", "sequence", "object", "function of 0") or _is_callable_tree(x),
        {"model": "write model.init(key, inputs)", "module": 'write module.init(key, inputs)["params"]'},
    ),
    "measure": _function("a function moment -> value", 1, observable="it is one already"),
    "measures": _function("a function (key, eigs, moment) -> value, or a tree of such functions", 3, observable="it is one"),
    "weight": _function("a function batch -> number", 1, array='write lambda batch: batch["mask"].sum()'),
    "preconditioner": _function(
        "a function optimizer state -> P",
        1,
        optimizer="write functools.partial(curvature.preconditioner, optimizer=optimizer)",
    ),
    "vectors": _function("a function (key, moment) -> vectors", 2),
    "steps": _function("a function (key, moment) -> steps", 2),
    "select": _function(
        'a function path -> bool, of paths such as "layer0/kernel"',
        1,
        text='write lambda path: path.startswith("layer0/")',
        sequence="write lambda path: path in names",
    ),
    "f": _function("a function of an array of eigenvalues", 1),
    "mesh": Role(
        "a mesh of devices",
        lambda x: isinstance(x, Mesh),
        {"else": 'write jax.make_mesh((n,), ("examples",))'},
    ),
    "precision": Role(
        'a precision of JAX\'s, such as "highest", "default" or "bfloat16"',
        lambda x: _is_precision(x),
        {"else": 'write precision="highest"'},
    ),
    "network": Role("a Model", lambda x: isinstance(x, Model), {"else": "write Model(init, apply)"}),
    "fn": Role("a function", lambda x: callable(x) and not inspect.isclass(x), {}),
}
