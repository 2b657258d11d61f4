"""Models on a device. The only importer of torch, transformers and sentence_transformers."""
