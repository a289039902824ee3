"""The name of our attention function in `config.json`: transformers without ptqflow refuses it, so nothing runs unquantized."""

ATTENTION_NAME = "ptqflow"
