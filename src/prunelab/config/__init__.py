"""params.yaml as typed models. No stage depends on this code: DVC tracks the values themselves."""
