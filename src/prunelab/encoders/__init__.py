"""Pretrained text encoders on disk: their files, sizes and tokenizers."""
