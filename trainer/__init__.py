"""Training of hemoscan's models: the eight experiments of the report. Imports hemoscan, never the other way round."""
