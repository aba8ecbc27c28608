"""The stages of dvc.yaml: files in, files out, each given only its own section of params.yaml."""
