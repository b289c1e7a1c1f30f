"""One file per DVC stage: read parameters, load, call the library once per seed, save."""
