"""`prunelab doctor`: what of this machine would stop a study, slow it or change its bits."""
