"""Commands of `adamix-lab`, by subject; `adamix_lab.cli` puts them together."""
