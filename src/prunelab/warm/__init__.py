"""A process that has loaded the third-party packages, so that stages start in forks of it."""
