"""Pretrained text encoders: their files, sizes and tokenizers. Their networks are in models/."""
