"""ptqflow: post-training quantization of reasoning LLMs as a workflow. Submodules are imported by name, when used."""

from wrapt import register_post_import_hook

# Stock transformers can load fake-quantized checkpoints after `import ptqflow`, in either order of the two imports,
# and without this import costing the seconds that torch takes (the Snakefile imports ptqflow, too).
register_post_import_hook("ptqflow.modeling.quantizer:register", "transformers.quantizers.auto")
