"""`prunelab sweep`: many settings, each as one DVC experiment."""
