"""Published studies as files, run as DVC experiments and compared with what was printed."""
