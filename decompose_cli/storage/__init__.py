"""Files, downloads, fingerprints and result documents."""
