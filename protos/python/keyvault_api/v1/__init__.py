"""Generated stubs of keyvault.v1; `python protos/generate.py` writes them."""
