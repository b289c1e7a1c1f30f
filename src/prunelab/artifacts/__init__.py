"""File formats: the only place that knows them. What is written here can be read here, safely."""
