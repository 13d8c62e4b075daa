"""Gradient and Hessian products of one loss, ready to be timed in JAX and in torch: same weights, same data, same vectors.

Networks: a and b of `_tasks`; cnn is `models.simple_cnn()` on 64 images of CIFAR-10. "At once" means several vectors in one
product; "a step of a loop" is one of gradient descent in a compiled loop, vector operations included, with a product by the
gradient's tangent where it says so: sharpness at every step can't cost less. Answers are lists of leaves in JAX's layout:
outputs [n, 10], gradient, and products with leaves [m, ...].
"""

import functools
import warnings

from benchmarks import _roofline
from benchmarks._turns import CORES, Program

AT_ONCE = {"a": (4, 10), "b": (4, 10), "cnn": (4,)}
MORE = {"a": 20, "b": 10, "cnn": 4}  # vectors multiplied in the loop whose marginal time is taken, and two products at least
IMAGES = 64
LAYERS = {
    "a": _roofline.dense(1000, (64, 100, 100, 10)),
    "b": _roofline.dense(1000, (3072, 200, 200, 10)),
    "cnn": [
        _roofline.Layer(IMAGES * side * side, 9 * channels, filters, IMAGES * before * before * channels)
        for before, side, channels, filters in ((32, 32, 3, 32), (32, 30, 32, 32), (15, 15, 32, 64), (15, 13, 64, 64))
    ]
    + _roofline.dense(IMAGES, (2304, 128, 10)),
}


def in_jax(name: str):
    """Programs; answers: what the other side needs to do the same, what JAX makes of it, and where the data come from."""
    import jax
    import numpy as np

    import landscape_jax as lj
    from benchmarks import _tasks

    if name == "cnn":
        model, (batch, source) = lj.models.simple_cnn(), _tasks.images(IMAGES)
        params, apply = jax.jit(model.init)(jax.random.key(0), batch[0][:1]), model.apply
    else:
        (params, batch, source), apply = _tasks.task(name), _tasks.outputs
    loss = lj.losses.mean(apply, lj.losses.square)
    keys = jax.random.split(jax.random.key(1), max(AT_ONCE[name]))
    vectors = jax.vmap(lambda key: lj.tree.normal_like(key, params))(keys)  # [m, ...]
    v = lj.tree.row(vectors, 0)
    hessian, linearized = lj.curvature.hessian(loss), lj.curvature.linearized_hessian(loss)

    gradient = jax.jit(jax.grad(loss))
    product = jax.jit(lambda params, batch, v: hessian(params, batch)(v))

    @jax.jit
    def chain(params, batch, v, scale, count):
        matvec = linearized(params, batch)
        return jax.lax.fori_loop(0, count, lambda _, v: lj.tree.scale(scale, matvec(v)), v)

    @jax.jit
    def chains(params, batch, vectors, scale, count):
        matvecs = jax.vmap(linearized(params, batch))
        return jax.lax.fori_loop(0, count, lambda _, v: lj.tree.scale(scale, matvecs(v)), vectors)

    @jax.jit
    def steps(params, batch, rate, count):
        move = lambda _, params: lj.tree.axpy(-rate, jax.grad(loss)(params, batch), params)  # noqa: E731
        return jax.lax.fori_loop(0, count, move, params)

    @jax.jit
    def watched(params, batch, v, rate, scale, count):
        def move(_, carry):
            gradients, tangent = jax.jvp(lambda params: jax.grad(loss)(params, batch), carry[:1], carry[1:])
            return lj.tree.axpy(-rate, gradients, carry[0]), lj.tree.scale(scale, tangent)

        return jax.lax.fori_loop(0, count, move, (params, v))

    # scaled by 1/|λ|, so that long chains neither vanish nor overflow
    scale = lj.tree.norm(chain(params, batch, v, 1.0, 5)) / lj.tree.norm(chain(params, batch, v, 1.0, 6))

    def called(fn, *given) -> Program:
        return Program(lambda: jax.block_until_ready(fn(params, batch, *given)))

    def marginal(fn, given, scale, m: int = 1) -> Program:
        more = max(2, MORE[name] // m)
        many, few = (called(fn, *given, scale, count).run for count in (1 + more, 1))
        return Program(many, few, m * more)

    some = {m: jax.tree.map(lambda x, m=m: x[:m], vectors) for m in AT_ONCE[name]}
    programs = {
        "gradient": called(gradient),
        "gradient, a step of a loop": marginal(steps, (), 1e-6),
        "gradient and product": called(product, v),
        "gradient and product, a step of a loop": marginal(watched, (v, 1e-6), scale),
        "product, linearised": marginal(chain, (v,), scale),
        **{f"product, linearised, {m} at once": marginal(chains, (given,), scale, m) for m, given in some.items()},
    }
    alone = lambda tree: jax.tree.map(lambda x: x[None], tree)  # noqa: E731
    answers = {
        "outputs": [jax.jit(apply)(params, batch[0])],
        "gradient": in_order(gradient(params, batch)),
        "products": in_order(jax.jit(lambda *given: jax.vmap(hessian(*given[:2]))(given[2]))(params, batch, vectors)),
        "gradient, a step of a loop": in_order(lj.tree.sub(params, steps(params, batch, 1.0, 1))),
        "gradient and product": in_order(alone(product(params, batch, v))),
        "gradient and product, a step of a loop": in_order(alone(watched(params, batch, v, 0.0, 1.0, 1)[1])),
        "product, linearised": in_order(alone(chain(params, batch, v, 1.0, 1))),
        **{f"product, linearised, {m} at once": in_order(chains(params, batch, given, 1.0, 1)) for m, given in some.items()},
    }
    given = {"weights": in_order(params), "batch": batch, "vectors": in_order(vectors)}
    return programs, (jax.tree.map(np.asarray, given), jax.tree.map(np.asarray, answers), source)


def in_order(tree) -> list:
    """W, b, W, b, ... layer by layer, of a list of pairs or of Flax's dict."""
    layers = tree if isinstance(tree, list) else [(tree[name]["kernel"], tree[name]["bias"]) for name in sorted(tree)]
    return [leaf for layer in layers for leaf in layer]


def in_torch(name: str, given: dict):
    """Programs and answers of torch, the latter by the names of the former and "outputs"."""
    import torch
    from torch.func import grad, jvp, linearize, vmap
    from torch.nn import functional

    warnings.simplefilter("ignore")  # linearize's tracing
    torch.set_num_threads(CORES)

    def ours(leaf):  # kernels [a, b, c, d] ↦ [d, c, a, b], also behind an axis of vectors
        leaf = torch.tensor(leaf)
        return leaf.permute(*range(leaf.ndim - 4), -1, -2, -4, -3) if leaf.ndim >= 4 else leaf

    def mlp(params, x):
        for w, b in zip(params[:-2:2], params[1:-2:2], strict=True):
            x = torch.tanh(torch.addmm(b, x, w))
        return torch.addmm(params[-1], x, params[-2])

    def cnn(params, x):
        for i, padding in enumerate((1, 0, 1, 0)):
            x = functional.relu(functional.conv2d(x, params[2 * i], params[2 * i + 1], padding=padding))
            x = functional.max_pool2d(x, 2) if i % 2 else x
        x = x.permute(0, 2, 3, 1).flatten(1)
        x = functional.relu(torch.addmm(params[9], x, params[8]))
        return torch.addmm(params[11], x, params[10])

    x, y = (torch.tensor(leaf) for leaf in given["batch"])
    apply, x = (cnn, x.permute(0, 3, 1, 2)) if name == "cnn" else (mlp, x)
    vectors = [ours(leaf).contiguous() for leaf in given["vectors"]]  # [m, ...]
    formats = {"": torch.contiguous_format} | ({", channels last": torch.channels_last} if name == "cnn" else {})

    def prepared(form):
        """{way: (call, how many vectors)} in one memory format of images, kernels and vectors; and the outputs."""
        lay = lambda leaf: leaf.contiguous(memory_format=form) if leaf.ndim == 4 else leaf.contiguous()  # noqa: E731
        images = lay(x)
        loss = lambda params: 0.5 * ((apply(params, images) - y) ** 2).sum() / len(y)  # noqa: E731
        params, v = [lay(ours(leaf)) for leaf in given["weights"]], [lay(leaf[0]) for leaf in vectors]
        leaves = [leaf.clone().requires_grad_() for leaf in params]
        again = lambda **options: torch.autograd.grad(loss(leaves), leaves, **options)  # noqa: E731
        graph, linear = again(create_graph=True), linearize(grad(loss), params)[1]
        product = lambda v, **options: torch.autograd.grad(graph, leaves, v, retain_graph=True, **options)  # noqa: E731
        ways = {
            "gradient": (again, 0),
            "gradient, its graph kept": (lambda: again(create_graph=True), 0),
            "gradient and product": (lambda: jvp(grad(loss), (params,), (v,))[1], 1),
            "product, graph kept": (lambda: product(v), 1),
            "product, linearised": (lambda: linear(v), 1),
        }
        for m in AT_ONCE[name] if form is torch.contiguous_format else ():  # torch's vmap has no channels last
            some = [leaf[:m] for leaf in vectors]
            ways[f"product, graph kept, {m} at once"] = functools.partial(product, some, is_grads_batched=True), m
            ways[f"product, linearised, {m} at once"] = functools.partial(vmap(linear), some), m
        return ways, apply(params, images)

    ways: dict = {}
    for suffix, form in formats.items():
        made, outputs = prepared(form)
        ways |= {way + suffix: call for way, call in made.items()}

    def theirs(leaf, m):
        leaf = leaf[None] if m == 1 else leaf
        return (leaf.permute(*range(leaf.ndim - 4), -2, -1, -3, -4) if leaf.ndim >= 4 else leaf).detach().numpy()

    answers = {way: [theirs(leaf, m) for leaf in call()] for way, (call, m) in ways.items()}
    answers["outputs"] = [outputs.detach().numpy()]
    return {way: Program(call, None, max(m, 1)) for way, (call, m) in ways.items()}, answers
