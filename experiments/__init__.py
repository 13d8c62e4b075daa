"""One module per paper; `python -m experiments` lists them."""
