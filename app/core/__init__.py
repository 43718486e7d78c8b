"""The ground floor: everything the features stand on. Nothing here imports a feature."""
