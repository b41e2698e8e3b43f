"""Looking into backbones: what a position of a map is made of, and what the scans have learnt."""
