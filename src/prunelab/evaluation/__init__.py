"""How good a network is. Everything here repeats to the bit."""
