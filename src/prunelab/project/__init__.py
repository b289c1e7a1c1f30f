"""The project around the code: Git, DVC, and the paths of the pipeline. The only room that knows them."""
