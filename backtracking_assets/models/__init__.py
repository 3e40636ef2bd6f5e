"""Checkpoints, interventions, sampling and the generation engine. Imports torch; nothing at start-up may import it."""
