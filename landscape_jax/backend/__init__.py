"""All that depends on a backend or on a version of XLA: the one package that asks what JAX runs on.

    policy              runs and points side by side or in turn, the precision that shares a gradient, host copies
    layout              how Krylov spaces store vectors: matrices transposed (CPU) or all leaves in one array (GPU)
    products            dense layers and Gram matrices in forms whose products are fast on a CPU
    convolution         XLA's convolution, or a form whose derivatives are fast on a CPU
    unit_stride         that form for stride 1: two primitives, closed under differentiation
    slow_convolutions   the warning about XLA's kernel gradients in compiled loops
    eigh                small symmetric eigenproblems, alone and under vmap
    control             `run_if`: an `if` that costs little under vmap
    memory              how much memory is free, and how much a program takes

Each module says why it exists, for which jaxlib that was found, and how to see that it is no longer needed. With
`policy.on_cpu` returning False, a CPU takes the accelerators' side of each choice but `layout`'s and `eigh`'s. Nothing here
imports from the library but `types` and `tree`.
"""
