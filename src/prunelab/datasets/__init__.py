"""Data sets as they are published or lie on disk. Only the stage prepare reads them."""
